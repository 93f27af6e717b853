// SPDX-License-Identifier: MIT
using System.IO.Pipelines;
using System.Text.Json;
using Qcow2Fuse.Control.Messages;

namespace Qcow2Fuse.Control.Server;

/// <summary>
/// Writes answers as the serializer would, their text in parts: the whole of it escaped would take many times as much
/// memory.
/// </summary>
internal static class AnswerWriter
{
    private const int PartChars = 16 << 10;

    /// <summary>Writes one, no faster than it is read.</summary>
    /// <exception cref="OperationCanceledException">It is not read to its end.</exception>
    public static async Task Write(PipeWriter output, ControlAnswer answer, CancellationToken cancellation)
    {
        using Utf8JsonWriter json = new(output);
        json.WriteStartObject();
        json.WriteNumber("exit-code", answer.ExitCode);
        json.WritePropertyName("output");
        int written = 0;
        do
        {
            int length = Math.Min(PartChars, answer.Output.Length - written);
            json.WriteStringValueSegment(
                answer.Output.AsSpan(written, length), isFinalSegment: written + length == answer.Output.Length);
            written += length;
            json.Flush();
            FlushResult flushed = await output.FlushAsync(cancellation);
            if (flushed.IsCanceled || flushed.IsCompleted)
                throw new OperationCanceledException("nobody reads the answer any more", cancellation);
        }
        while (written < answer.Output.Length);

        WriteRest(json, answer);
        json.WriteEndObject();
        json.Flush();
        _ = await output.FlushAsync(cancellation);
    }

    private static void WriteRest(Utf8JsonWriter json, ControlAnswer answer)
    {
        if (answer.Messages is { } messages)
        {
            json.WriteStartArray("messages");
            foreach (string message in messages)
                json.WriteStringValue(message);
            json.WriteEndArray();
        }

        if (answer.Error is { } error)
            json.WriteString("error", error);
        if (answer.Hint is { } hint)
            json.WriteString("hint", hint);
    }
}
