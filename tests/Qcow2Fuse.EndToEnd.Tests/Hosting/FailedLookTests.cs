// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>Images that are looked into in vain.</summary>
public sealed class FailedLookTests : CommandTest
{
    private const int L1OffsetField = 47;

    [Fact]
    public void A_look_that_fails_is_not_begun_again_while_the_file_stays_as_it_is()
    {
        string path = Path.Combine(PathOf("images"), "bad.qcow2");
        Directory.CreateDirectory(PathOf("images"));
        HostTree.Write(NamesImage.WithSnapshots(0, 0, 0), path);
        Poke(path, 1);
        MessageList messages = new();
        MountSettings settings = new() { ReadOnly = true, Partitions = true };
        using ImageSet images = ImageSet.Open(settings, PathOf("images"), messages);
        TreeContext context = new(settings, messages);
        images.CreateNodes(context, rootIsFile: false);
        TreeFileSystem files = new(context, images);
        for (int i = 0; i < 5; i++)
            Assert.Equal([".", "..", "bad.raw"], HostTree.Names(files, 1));
        Assert.Equal(1, messages.Looks);

        // Another file of the name is looked into.
        Poke(path, 2);
        Assert.Equal([".", "..", "bad.raw"], HostTree.Names(files, 1));
        Assert.Equal(2, messages.Looks);
    }

    private static void Poke(string path, byte value)
    {
        using (FileStream file = File.OpenWrite(path))
        {
            file.Position = L1OffsetField;
            file.WriteByte(value);
        }

        File.SetLastWriteTimeUtc(path, DateTime.UtcNow.AddSeconds(10 * value));
    }

    private sealed class MessageList : ILogger
    {
        private readonly ConcurrentQueue<string> _all = new();

        public int Looks => _all.Count(static message => message.StartsWith("partitions", StringComparison.Ordinal));

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(
            LogLevel logLevel, EventId eventId, TState state, Exception? exception,
            Func<TState, Exception?, string> formatter) => _all.Enqueue(formatter(state, exception));
    }
}
