// SPDX-License-Identifier: MIT
using System.IO.Pipelines;
using System.Text;
using System.Text.Json;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Control.Server;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Control;

/// <summary>Answers of a daemon as they are written.</summary>
public sealed class AnswerWriterTests
{
    [Fact]
    public async Task An_answer_in_parts_is_what_the_serializer_writes()
    {
        // Characters of two halves lie across the parts, wherever those end.
        string text = "\"<ä\n" + string.Concat(Enumerable.Repeat("\U0001F600", 20_000)) + "x"
            + string.Concat(Enumerable.Repeat("\U0001F600", 20_000));
        foreach (ControlAnswer answer in (ControlAnswer[])
            [
                new ControlAnswer(),
                new ControlAnswer(3, text, ["one", "two"], "error", "hint"),
                new ControlAnswer(Output: "short\n", Messages: []),
            ])
        {
            using MemoryStream stream = new();
            await AnswerWriter.Write(PipeWriter.Create(stream), answer, CancellationToken.None);
            Assert.Equal(
                JsonSerializer.Serialize(answer, ControlJson.Default.ControlAnswer),
                Encoding.UTF8.GetString(stream.ToArray()));
        }
    }

    [Fact]
    public void The_longest_answer_takes_little_memory_beside_its_text()
    {
        ControlAnswer answer = new(Output: new string('\u0100', BoundedText.CharsMax));
        PipeWriter nobody = PipeWriter.Create(Stream.Null);
        long before = GC.GetAllocatedBytesForCurrentThread();
        Task writing = AnswerWriter.Write(nobody, answer, CancellationToken.None);
        Assert.True(writing.IsCompletedSuccessfully);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 4 << 20);
    }
}
