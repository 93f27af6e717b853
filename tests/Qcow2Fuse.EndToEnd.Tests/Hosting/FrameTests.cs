// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Reflection;
using Microsoft.Extensions.Logging.Abstractions;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Block.Live;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>
/// The ways of a request from the worker that received it to the image file, as docs/architecture.md prints them: few
/// calls, and none back into a folder that was left.
/// </summary>
public sealed class FrameTests : CommandTest
{
    private const int RequestBytes = 4096;
    private const int ReadFramesMax = 10;
    private const int WriteFramesMax = 12;
    private static readonly MountSettings Settings = new();

    [Fact]
    public void A_read_goes_straight_down()
    {
        using Served served = new(this);
        served.Write(offset: 0);
        served.Read(offset: 0);
        ShouldGoDown(served.File.Calls(nameof(BlockDevice.Read)), ReadFramesMax);
    }

    [Fact]
    public void An_allocating_write_goes_straight_down()
    {
        using Served served = new(this);
        served.Write(offset: 0);
        served.Write(offset: 1 << 20);
        ShouldGoDown(served.File.Calls(nameof(BlockDevice.Write), nameof(BlockDevice.WriteParts)), WriteFramesMax);
    }

    /// <param name="way">The types and methods that were called, the worker's first and the file's last.</param>
    /// <param name="most">Calls that there may be below the worker's.</param>
    private static void ShouldGoDown(IReadOnlyList<MethodBase> way, int most)
    {
        string text = string.Join(" → ", way.Select(static call => $"{call.DeclaringType!.Name}.{call.Name}"));
        Assert.True(way.Count - 1 <= most, $"{way.Count - 1} calls: {text}");
        string[] folders = [.. way.Select(static call => call.DeclaringType!.Namespace!)];
        List<string> left = [];
        for (int i = 1; i < folders.Length; i++)
        {
            Assert.False(left.Contains(folders[i]), $"back into {folders[i]}: {text}");
            if (folders[i] != folders[i - 1])
                left.Add(folders[i - 1]);
        }
    }

    /// <summary>A disk in memory that is served to a kernel without one.</summary>
    private sealed class Served : IDisposable
    {
        private readonly FakeKernel _kernel = new();
        private readonly ImageSet _images;
        private readonly FuseServer _server;
        private readonly MemoryDisk _disk = new();
        private readonly ulong _node;

        public Served(FrameTests test)
        {
            string directory = test.PathOf("images");
            Directory.CreateDirectory(directory);
            HostTree.Write(NamesImage.WithSnapshots(0, 0, 0), Path.Combine(directory, "a.qcow2"));
            _images = ImageSet.Open(Settings, directory, NullLogger.Instance);
            TreeContext context = new(Settings, NullLogger.Instance);
            _images.CreateNodes(context, rootIsFile: false);
            _ = _disk.Acquire();
            _node = context.Nodes.Add(new RawFileNode(context, _images.Current()[0].Image, _disk)).Number;
            _server = new FuseServer(
                _kernel, new TreeFileSystem(context, _images), new FuseServerOptions { Workers = 1 });
            _server.Start();
            FuseInitIn init = new() { Major = 7, Minor = 45, MaxReadAhead = 0x20000 };
            Assert.Equal(0, _kernel.Send((uint)FuseOpcode.Init, 0, init).Error);
        }

        public TracedFile File => _disk.File;

        public void Read(ulong offset)
        {
            FuseReadIn arguments = new() { Offset = offset, Size = RequestBytes };
            FakeReply reply = _kernel.Send((uint)FuseOpcode.Read, _node, arguments);
            Assert.Equal((0, RequestBytes), (reply.Error, reply.Payload.Length));
        }

        public void Write(ulong offset)
        {
            FuseWriteIn arguments = new() { Offset = offset, Size = RequestBytes };
            Assert.Equal(0, _kernel.Send((uint)FuseOpcode.Write, _node, arguments, new byte[RequestBytes]).Error);
        }

        public void Dispose()
        {
            _server.Dispose();
            _kernel.Dispose();
            _disk.Release();
            _images.Dispose();
        }
    }

    private sealed class MemoryDisk : DiskSource
    {
        public TracedFile File { get; } = new();

        public override long Length => 64 << 20;

        public override long AllocatedBytes => 0;

        public override bool IsReadOnly => false;

        protected override BlockDevice Open()
        {
            Qcow2Creator.Create(File, new Qcow2CreateOptions { Size = Length });
            return new LiveDevice(Qcow2Device.Open(File, new FormatOpenArguments()));
        }

        protected override void Close(BlockDevice device) => device.Dispose();
    }

    /// <summary>Remembers who called it with as many bytes as a request has.</summary>
    private sealed class TracedFile() : FilterDevice(new MemoryDevice())
    {
        private readonly List<MethodBase[]> _calls = [];

        public IReadOnlyList<MethodBase> Calls(params string[] names) =>
            _calls.FindLast(call => names.Contains(call[^1].Name, StringComparer.Ordinal))
            ?? throw new InvalidOperationException("nothing of the request has reached the file");

        public override void Read(long offset, Span<byte> destination)
        {
            Note(destination.Length);
            base.Read(offset, destination);
        }

        public override void Write(long offset, ReadOnlySpan<byte> source)
        {
            Note(source.Length);
            base.Write(offset, source);
        }

        public override void WriteParts(
            long offset, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, ReadOnlySpan<byte> tail)
        {
            Note(body.Length);
            base.WriteParts(offset, head, body, tail);
        }

        private void Note(int length)
        {
            if (length != RequestBytes)
                return;
            MethodBase[] calls =
            [
                .. new StackTrace(skipFrames: 1, fNeedFileInfo: false).GetFrames()
                    .Select(static frame => frame.GetMethod()!)
                    .TakeWhile(static method => method.DeclaringType != typeof(ServerThreads)
                        && method.DeclaringType?.Namespace?.StartsWith("Qcow2Fuse", StringComparison.Ordinal) == true)
                    .Reverse(),
            ];
            int worker = Array.FindIndex(calls, static call => call.DeclaringType == typeof(WorkerLoop)
                && call.Name == "Serve");
            if (worker >= 0)
                _calls.Add(calls[worker..]);
        }
    }
}
