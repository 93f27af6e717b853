// SPDX-License-Identifier: MIT
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Images.Reports;

/// <summary>JSON as it is printed: indented as qemu-img does, and fit to be shown on a terminal.</summary>
internal static class JsonText
{
    private const int PendingMax = 64 << 10;

    private static readonly JsonWriterOptions Options = new()
    {
        Indented = true,
        IndentSize = 4,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    /// <summary>What is written, as text without a newline at its end.</summary>
    public static string Format(Action<Utf8JsonWriter> write)
    {
        using MemoryStream stream = new();
        using (Utf8JsonWriter json = new(stream, Options))
            write(json);
        return Printable.Json(Encoding.UTF8.GetString(stream.GetBuffer(), 0, (int)stream.Length));
    }

    /// <summary>
    /// Prints what is written, without a newline at its end. It may be long: <see cref="PassOn"/> between its parts.
    /// </summary>
    public static void Write(TextWriter output, Action<Utf8JsonWriter> write)
    {
        using Utf8TextStream stream = new(output, Printable.Json);
        using (Utf8JsonWriter json = new(stream, Options))
            write(json);
    }

    /// <summary>Passes on what has been written, so that it does not pile up.</summary>
    public static void PassOn(Utf8JsonWriter json)
    {
        if (json.BytesPending > PendingMax)
            json.Flush();
    }
}
