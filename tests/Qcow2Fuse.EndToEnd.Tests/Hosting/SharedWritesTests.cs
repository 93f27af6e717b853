// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Microsoft.Extensions.Logging.Abstractions;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>Changes of one disk through two of its files, while the kernel drops old pages as late as the test says.
/// </summary>
public sealed class SharedWritesTests : CommandTest
{
    private const uint ReadWrite = 2;
    private const int Sector = 512;
    private const int Page = 4096;
    private const int DiskBytes = 8 << 20;
    private const int PartitionStart = 1 << 20;
    private const FuseWriteKind Plain = FuseWriteKind.Plain;
    private const FuseWriteKind FromCache = FuseWriteKind.FromCache;

    [Fact]
    public void An_old_page_spares_what_is_newer_until_the_kernel_has_dropped_it()
    {
        using SharedDisk disk = new(PathOf("disk.img"));
        (ulong whole, ulong wholeHandle) = disk.Open("disk.raw");
        (ulong part, ulong partHandle) = disk.Open("disk.p1.raw");
        disk.HoldNotifications();
        Assert.Equal(Sector, disk.Files.Write(part, partHandle, Sector, Filled(Sector, 'B'), Plain));

        // As the kernel has the page: one sector of it was stored into, the others are those of before.
        byte[] page = Filled(Page, '\0');
        Filled(Sector, 'A').CopyTo(page, 0);
        Assert.Equal(Page, disk.Files.Write(whole, wholeHandle, PartitionStart, page, FromCache));
        Assert.Equal(('A', 'B'), (disk.At(PartitionStart), disk.At(PartitionStart + Sector)));

        // A page that the kernel read since has what is newer, and what a program stores there counts.
        disk.LetNotificationsGo();
        Filled(Sector, 'C').CopyTo(page, Sector);
        Assert.Equal(Page, disk.Files.Write(whole, wholeHandle, PartitionStart, page, FromCache));
        Assert.Equal(('A', 'C'), (disk.At(PartitionStart), disk.At(PartitionStart + Sector)));
    }

    /// <summary>However many changes the kernel has not heard of, none of them is forgotten, and none fails.</summary>
    [Fact]
    public void More_changes_than_there_is_place_for_are_all_remembered()
    {
        using SharedDisk disk = new(PathOf("disk.img"));
        (ulong whole, ulong wholeHandle) = disk.Open("disk.raw");
        (ulong part, ulong partHandle) = disk.Open("disk.p1.raw");
        disk.HoldNotifications();
        const int changes = 1500;
        byte[] pages = Filled(changes * Page, '\0');
        for (int i = 0; i < changes; i++)
        {
            // What a program has stored into pages comes without waiting for anything.
            byte[] page = Filled(Page, '\0');
            Filled(Sector, 'B').CopyTo(page, Sector);
            Assert.Equal(Page, disk.Files.Write(part, partHandle, (long)i * Page, page, FromCache));
        }

        Assert.Equal(pages.Length, disk.Files.Write(whole, wholeHandle, PartitionStart, pages, FromCache));
        for (int i = 0; i < changes; i++)
            Assert.Equal('B', disk.At(PartitionStart + ((long)i * Page) + Sector));
        disk.LetNotificationsGo();
    }

    /// <summary>The thread that ends transfers is waited for by others, who hold the order.</summary>
    [Fact]
    public void The_end_of_a_transfer_waits_for_no_other_change()
    {
        using SharedDisk disk = new(PathOf("disk.img"));
        (ulong whole, ulong wholeHandle) = disk.Open("disk.raw");
        FuseTransfer transfer = new() { IsWrite = true, Length = Page };
        Assert.True(disk.Files.TryBeginTransfer(whole, wholeHandle, PartitionStart, transfer));
        ulong part = disk.Find("disk.p1.raw");
        TestThread opening = TestThread.Start(() => disk.Open(part));
        opening.ShouldWait("a file is open while a change through another one is under way in no order");
        using ManualResetEventSlim isHeld = new();
        using ManualResetEventSlim letGo = new();
        TestThread holder = TestThread.Start(() =>
        {
            using Lock.Scope scope = disk.Image.Writes.Enter();
            isHeld.Set();
            Assert.True(letGo.Wait(Eventually.Patience));
        });
        Assert.True(isHeld.Wait(Eventually.Patience));
        TestThread ending = TestThread.Start(() => disk.Files.EndTransfer(transfer, isDone: true));
        ending.ShouldEnd();
        opening.ShouldEnd();
        letGo.Set();
        holder.ShouldEnd();

        // From now on the order is kept.
        Assert.False(disk.Files.TryBeginTransfer(whole, wholeHandle, PartitionStart, transfer));
    }

    /// <summary>Who opens a file for writing has none of its old pages.</summary>
    [Fact]
    public void A_file_is_opened_for_writing_when_its_old_pages_have_gone()
    {
        using SharedDisk disk = new(PathOf("disk.img"));
        (ulong whole, ulong wholeHandle) = disk.Open("disk.raw", flags: 0);
        (ulong part, ulong partHandle) = disk.Open("disk.p1.raw");
        disk.HoldNotifications();
        Assert.Equal(Sector, disk.Files.Write(part, partHandle, 0, Filled(Sector, 'B'), Plain));

        // The moment that any open waits is not it: all who may wait so do.
        TestThread[] others = [.. Enumerable.Range(0, 4).Select(_ => TestThread.Start(
            () => disk.Server.Invalidator.TryWaitDelivered(Eventually.Patience)))];
        foreach (TestThread other in others)
            other.ShouldWait("nobody waits");
        TestThread opening = TestThread.Start(() => disk.Open(whole));
        opening.ShouldWait("the kernel may have old pages");
        disk.LetNotificationsGo();
        opening.ShouldEnd();
        foreach (TestThread other in others)
            other.ShouldEnd();
        disk.Files.Release(whole, wholeHandle);
    }

    [Fact]
    public void One_file_alone_needs_no_order_again()
    {
        using SharedDisk disk = new(PathOf("disk.img"));
        (ulong whole, ulong wholeHandle) = disk.Open("disk.raw");
        (ulong part, ulong partHandle) = disk.Open("disk.p1.raw");
        Assert.Equal(Sector, disk.Files.Write(part, partHandle, 0, Filled(Sector, 'B'), Plain));
        disk.Files.Release(part, partHandle);
        Assert.True(disk.Server.Invalidator.WaitDelivered(Eventually.Patience));
        Assert.Equal(Sector, disk.Files.Write(whole, wholeHandle, 0, Filled(Sector, 'B'), Plain));
        FuseTransfer transfer = new() { IsWrite = true, Length = Page };
        Assert.True(disk.Files.TryBeginTransfer(whole, wholeHandle, 0, transfer));
        disk.Files.EndTransfer(transfer, isDone: true);
    }

    /// <summary>What was cut off comes back through no file.</summary>
    [Fact]
    public void A_change_of_the_size_is_known_to_all_files()
    {
        using SharedDisk disk = new(PathOf("disk.img"));
        (ulong whole, ulong wholeHandle) = disk.Open("disk.raw");
        (ulong part, ulong partHandle) = disk.Open("disk.p1.raw");
        Assert.Equal(Page, disk.Files.Write(part, partHandle, 0, Filled(Page, 'B'), Plain));
        Assert.True(disk.Server.Invalidator.WaitDelivered(Eventually.Patience));
        int before = disk.Kernel.Notifications.Count;
        disk.HoldNotifications();
        foreach (ulong size in new ulong[] { PartitionStart, DiskBytes })
        {
            Assert.Equal(0, disk.Files.SetAttributes(
                whole, new FuseAttributeChange { Size = (long)size, Handle = wholeHandle }, out _));
        }

        // The page of the partition from before, into which a program stores.
        byte[] page = Filled(Page, 'B');
        Filled(Sector, 'C').CopyTo(page, 0);
        Assert.Equal(Page, disk.Files.Write(part, partHandle, 0, page, FromCache));
        Assert.Equal(('\0', '\0'), (disk.At(PartitionStart), disk.At(PartitionStart + Sector)));
        disk.LetNotificationsGo();
        Assert.True(disk.Kernel.Notifications.Count > before);
    }

    private static byte[] Filled(int length, char value)
    {
        byte[] bytes = new byte[length];
        Array.Fill(bytes, (byte)value);
        return bytes;
    }

    /// <summary>A raw disk with one partition, and a kernel that takes notifications when it is let.</summary>
    private sealed class SharedDisk : IDisposable
    {
        private readonly ImageSet _images;
        private readonly string _path;
        private readonly ManualResetEventSlim _gate = new(initialState: true);

        public SharedDisk(string path)
        {
            _path = path;
            byte[] content = new byte[DiskBytes];
            content[510] = 0x55;
            content[511] = 0xAA;
            content[450] = 0x83;
            BinaryPrimitives.WriteInt32LittleEndian(content.AsSpan(454), PartitionStart / Sector);
            BinaryPrimitives.WriteInt32LittleEndian(content.AsSpan(458), (DiskBytes - PartitionStart) / Sector);
            File.WriteAllBytes(path, content);
            MountSettings settings = new() { Format = "raw", Resize = true };
            _images = ImageSet.Open(settings, path, NullLogger.Instance);
            TreeContext context = new(settings, NullLogger.Instance);
            _images.CreateNodes(context, rootIsFile: false);
            Files = new TreeFileSystem(context, _images);
            Kernel = new FakeKernel
            {
                OnNotify = message =>
                {
                    Assert.True(_gate.Wait(Eventually.Patience));
                    return message.Length;
                },
            };
            Server = new FuseServer(Kernel, Files, new FuseServerOptions { Workers = 2 });
            context.Invalidator = Server.Invalidator;
            Server.Start();
        }

        public TreeFileSystem Files { get; }

        public FakeKernel Kernel { get; }

        public FuseServer Server { get; }

        public HostedImage Image => _images.Current()[0].Image;

        public ulong Find(string name) => HostTree.Find(Files, name).Node;

        public (ulong Node, ulong Handle) Open(string name, uint flags = ReadWrite)
        {
            ulong node = Find(name);
            return (node, Open(node, flags));
        }

        public ulong Open(ulong node, uint flags = ReadWrite)
        {
            Assert.Equal(0, Files.Open(node, new FuseOpenRequest(flags, 0, 0), out FuseOpenResult opened));
            return opened.Handle;
        }

        public void HoldNotifications() => _gate.Reset();

        public void LetNotificationsGo()
        {
            _gate.Set();
            Assert.True(Server.Invalidator.WaitDelivered(Eventually.Patience));
        }

        public char At(long offset)
        {
            using FileStream file = new(_path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
            file.Position = offset;
            return (char)file.ReadByte();
        }

        public void Dispose()
        {
            _gate.Set();
            Server.Dispose();
            _images.Dispose();
            _gate.Dispose();
        }
    }
}
