// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging.Abstractions;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>The files of a mount without a mount.</summary>
public sealed class RawFileNodeTests : CommandTest
{
    private const uint ReadWrite = 2;

    private static readonly MountSettings Settings = new();

    [SkippableFact]
    public void Reads_and_writes_allocate_no_managed_memory()
    {
        QemuTools.RequireTool("qemu-img");
        string path = PathOf("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", path, "64M");
        using ImageSet images = ImageSet.Open(Settings, path, NullLogger.Instance);
        TreeFileSystem fileSystem = TreeOf(images);
        Assert.Equal(0, fileSystem.Lookup(1, "disk.raw"u8, out FuseAttributes found));
        Assert.Equal(0, fileSystem.Open(found.Node, new FuseOpenRequest(ReadWrite, 0, 0), out _));
        byte[] buffer = new byte[4096];
        Work(200);

        Assert.Equal(0, ManagedAllocation.Of(() => Work(2000)));
        fileSystem.Release(found.Node, 0);

        void Work(int requests)
        {
            for (int i = 0; i < requests; i++)
            {
                long offset = i % 200 * 65536L;
                Check(fileSystem.Write(found.Node, 0, offset, buffer, FuseWriteKind.Plain) == buffer.Length);
                Check(fileSystem.Read(found.Node, 0, offset, buffer) == buffer.Length);
            }
        }
    }

    [SkippableFact]
    public void Transfers_are_counted_and_told_as_other_requests_are_and_allocate_no_managed_memory()
    {
        QemuTools.RequireTool("qemu-img");
        string path = PathOf("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", path, "64M");
        using ImageSet images = ImageSet.Open(Settings, path, NullLogger.Instance);
        TreeFileSystem fileSystem = TreeOf(images);
        Assert.Equal(0, fileSystem.Lookup(1, "disk.raw"u8, out FuseAttributes found));
        ulong node = found.Node;
        FuseTransfer transfer = new() { Length = 4096 };
        Assert.True(fileSystem.TryBeginTransfer(node, 0, 0, transfer));
        Assert.Equal(FuseTransferKind.Zeroes, transfer.Kind);
        fileSystem.EndTransfer(transfer, isDone: false);
        Assert.Equal(0, fileSystem.Open(node, new FuseOpenRequest(ReadWrite, 0, 0), out _));
        Assert.Equal(65536, fileSystem.Write(node, 0, 0, new byte[65536], FuseWriteKind.Plain));
        Work(200);
        ImageCounters counters = images.Current()[0].Image.Counters;
        Assert.Equal((100, 100 * 4096), (counters.Reads, counters.ReadBytes));
        Assert.Equal((101, 65536 + (100 * 4096)), (counters.Writes, counters.WrittenBytes));

        Assert.Equal(0, ManagedAllocation.Of(() => Work(2000)));

        // What was not done is not counted: it is done again.
        long reads = counters.Reads;
        Assert.True(fileSystem.TryBeginTransfer(node, 0, 0, transfer));
        fileSystem.EndTransfer(transfer, isDone: false);
        Assert.Equal(reads, counters.Reads);
        Assert.False(fileSystem.TryBeginTransfer(node, 0, (64 << 20) - 4095, transfer));
        Assert.False(fileSystem.TryBeginTransfer(node + 100, 0, 0, transfer));
        Assert.False(fileSystem.TryBeginTransfer(1, 0, 0, transfer));
        Assert.False(fileSystem.TryBeginTransfer(node, 1ul << 32, 0, transfer));
        fileSystem.Release(node, 0);

        void Work(int requests)
        {
            for (int i = 0; i < requests; i++)
            {
                transfer.IsWrite = i % 2 == 0;
                Check(fileSystem.TryBeginTransfer(node, 0, i % 16 * 4096, transfer));
                fileSystem.EndTransfer(transfer, isDone: true);
            }

            transfer.IsWrite = false;
        }
    }

    [SkippableFact]
    public void A_node_that_has_gone_is_stale_and_its_number_is_not_used_again()
    {
        QemuTools.RequireTool("qemu-img");
        string directory = PathOf("images");
        Directory.CreateDirectory(directory);
        string path = Path.Combine(directory, "a.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", path, "1M");
        using ImageSet images = ImageSet.Open(Settings, directory, NullLogger.Instance);
        TreeFileSystem fileSystem = TreeOf(images);
        FuseOpenRequest open = new(0, 0, 0);
        Assert.Equal(0, fileSystem.Lookup(1, "a.raw"u8, out FuseAttributes first));
        Assert.Equal(0, fileSystem.Open(first.Node, open, out _));

        File.Delete(path);
        Assert.Equal(-Errno.ENOENT, fileSystem.Lookup(1, "a.raw"u8, out _));

        // Who has it open goes on.
        Assert.Equal(512, fileSystem.Read(first.Node, 0, 0, new byte[512]));
        fileSystem.Release(first.Node, 0);
        Assert.Equal(-Errno.ESTALE, fileSystem.Read(first.Node, 0, 0, new byte[512]));
        Assert.Equal(-Errno.ESTALE, fileSystem.Open(first.Node, open, out _));

        QemuTools.Img("create", "-q", "-f", "qcow2", path, "2M");
        Assert.Equal(0, fileSystem.Lookup(1, "a.raw"u8, out FuseAttributes second));
        Assert.NotEqual(first.Node, second.Node);
        Assert.Equal(2 << 20, second.Size);
    }

    /// <summary>Unlike Assert.Equal it allocates nothing.</summary>
    private static TreeFileSystem TreeOf(ImageSet images)
    {
        TreeContext context = new(Settings, NullLogger.Instance);
        images.CreateNodes(context, rootIsFile: false);
        return new TreeFileSystem(context, images);
    }

    private static void Check(bool condition)
    {
        if (!condition)
            Assert.Fail("a request was not served whole");
    }
}
