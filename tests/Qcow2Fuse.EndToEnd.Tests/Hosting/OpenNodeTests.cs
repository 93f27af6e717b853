// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging.Abstractions;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>Files whose names go while they are being opened.</summary>
public sealed class OpenNodeTests : CommandTest
{
    private const uint ReadWrite = 2;
    private static readonly MountSettings Settings = new();

    [Fact]
    public void A_node_that_is_retired_while_its_disk_opens_is_closed_by_its_release()
    {
        using ImageSet images = OpenImages(out TreeContext context, out TreeFileSystem files);
        using HeldDisk disk = new();
        RawFileNode node = context.Nodes.Add(new RawFileNode(context, images.Current()[0].Image, disk));
        FuseOpenResult opened = default;
        int result = 1;
        TestThread opening = TestThread.Start(() => result = files.Open(node.Number, default, out opened));
        disk.HasBegun();
        node.Retire();
        disk.Ready.Set();
        opening.ShouldEnd();
        Assert.Equal(0, result);
        Assert.Equal(512, files.Read(node.Number, opened.Handle, 0, new byte[512]));
        files.Release(node.Number, opened.Handle);
        Assert.Null(disk.Current);
        Assert.Equal(-Errno.ESTALE, files.Open(node.Number, default, out _));
    }

    [Fact]
    public void An_opening_that_fails_or_is_refused_leaves_nothing_behind()
    {
        using ImageSet images = OpenImages(out TreeContext context, out TreeFileSystem files);
        using HeldDisk disk = new() { Failure = new BlockException(BlockErrorKind.TooLarge, "no") };
        disk.Ready.Set();
        RawFileNode node = context.Nodes.Add(new RawFileNode(context, images.Current()[0].Image, disk));
        Assert.Throws<BlockException>(() => files.Open(node.Number, default, out _));
        disk.Failure = null;
        Assert.Equal(-Errno.EROFS, files.Open(node.Number, new FuseOpenRequest(ReadWrite, 0, 0), out _));
        Assert.Null(disk.Current);
        node.Retire();
        Assert.Equal(-Errno.ESTALE, files.Open(node.Number, default, out _));
    }

    [Fact]
    public void A_disk_that_is_being_opened_does_not_count_as_closed()
    {
        using HeldDisk disk = new();
        Assert.True(disk.IsClosed);
        TestThread opening = TestThread.Start(() => disk.Acquire());
        disk.HasBegun();
        Assert.False(disk.IsClosed);
        disk.Ready.Set();
        opening.ShouldEnd();
        Assert.False(disk.IsClosed);
        disk.Release();
        Assert.True(disk.IsClosed);
    }

    [Fact]
    public void An_image_whose_name_has_gone_is_not_opened_again()
    {
        using ImageSet images = OpenImages(out _, out _);
        HostedImage image = images.Current()[0].Image;
        BlockDevice device = image.Acquire();
        Assert.False(image.Retire());
        Assert.Same(device, image.Acquire());
        image.Release();
        image.Release();
        Assert.True(image.CloseUnused(TimeSpan.Zero));
        Assert.True(image.IsClosed);
        BlockException failure = Assert.Throws<BlockException>(image.Acquire);
        Assert.Equal(BlockErrorKind.NotFound, failure.Kind);
    }

    private ImageSet OpenImages(out TreeContext context, out TreeFileSystem files)
    {
        string path = PathOf("images");
        Directory.CreateDirectory(path);
        HostTree.Write(NamesImage.WithSnapshots(0, 0, 0), Path.Combine(path, "a.qcow2"));
        ImageSet images = ImageSet.Open(Settings, path, NullLogger.Instance);
        context = new TreeContext(Settings, NullLogger.Instance);
        images.CreateNodes(context, rootIsFile: false);
        files = new TreeFileSystem(context, images);
        return images;
    }

    /// <summary>A disk that is opened when the test says so.</summary>
    private sealed class HeldDisk : DiskSource, IDisposable
    {
        private readonly ManualResetEventSlim _begun = new();

        public ManualResetEventSlim Ready { get; } = new();

        public BlockException? Failure { get; set; }

        public override long Length => 4096;

        public override long AllocatedBytes => 0;

        public override bool IsReadOnly => true;

        public void HasBegun() => Assert.True(_begun.Wait(Eventually.Patience));

        public void Dispose()
        {
            _begun.Dispose();
            Ready.Dispose();
        }

        protected override BlockDevice Open()
        {
            _begun.Set();
            Assert.True(Ready.Wait(Eventually.Patience));
            return Failure is null ? new ReadOnlyDisk() : throw Failure;
        }

        protected override void Close(BlockDevice device) => device.Dispose();
    }

    private sealed class ReadOnlyDisk() : FilterDevice(new MemoryDevice(4096))
    {
        public override bool IsReadOnly => true;
    }
}
