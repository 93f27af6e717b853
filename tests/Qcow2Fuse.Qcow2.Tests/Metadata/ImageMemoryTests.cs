// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Tests.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Metadata;

/// <summary>
/// What images take of the memory that they share, and what they give back. It is the memory of the whole process.
/// </summary>
[Collection(nameof(Alone))]
public sealed class ImageMemoryTests
{
    private const int Tables = 1 << 20;

    [Fact]
    public void Images_share_the_memory_for_their_tables()
    {
        MemoryBudget budget = new(12 << 20);
        using MemoryDevice first = FanImage.Create(16, Tables, _ => 1);
        using MemoryDevice second = FanImage.Create(16, Tables, _ => 1);
        FormatOpenArguments arguments = new() { ReadOnly = true, Memory = budget };
        using (Qcow2Device open = Qcow2Device.Open(first, arguments))
        {
            Assert.InRange(budget.Taken, Tables * 8, (Tables * 8) + (1 << 20));
            BlockException refused = Assert.Throws<BlockException>(() => Qcow2Device.Open(second, arguments));
            Assert.Equal(BlockErrorKind.NoMemory, refused.Kind);
            byte[] bytes = new byte[512];
            open.Read(0, bytes);
        }

        Assert.Equal(0, budget.Taken);
        using Qcow2Device other = Qcow2Device.Open(second, arguments);
        Assert.InRange(budget.Taken, Tables * 8, 12 << 20);
    }

    [Fact]
    public void Bitmaps_that_record_take_memory_of_it()
    {
        MemoryBudget budget = new(1 << 20);
        using MemoryDevice file = NewFile(64L << 20);
        using (Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments { Memory = budget }))
        {
            device.AddBitmap("small", 65536, enabled: true);
            long before = budget.Taken;
            BlockException refused = Assert.Throws<BlockException>(
                () => Fill(device, budget));
            Assert.Equal(BlockErrorKind.NoMemory, refused.Kind);
            device.RemoveBitmap("b0");
            Assert.InRange(budget.Taken, before, 1 << 20);
            device.Write(0, new byte[4096]);
        }

        Assert.Equal(0, budget.Taken);
        MemoryDevice copy = file;
        BlockException notOpened = Assert.Throws<BlockException>(() => Qcow2Device.Open(
            copy, new FormatOpenArguments { Memory = new MemoryBudget(64 << 10) }));
        Assert.Equal(BlockErrorKind.NoMemory, notOpened.Kind);

        static void Fill(Qcow2Device device, MemoryBudget budget)
        {
            for (int i = 0; i < 1000; i++)
                device.AddBitmap($"b{i}", 512, enabled: true);
            Assert.Fail($"{budget.Taken} bytes are taken and no more were refused");
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_disk_that_is_open_is_written_whatever_memory_others_take(bool hasSnapshot)
    {
        MemoryBudget budget = new(1 << 20);
        long needed;
        using MemoryDevice file = NewFile(64L << 20, clusterSize: 512);
        using (Qcow2Device device = Qcow2Device.Open(new Unowned(file), new FormatOpenArguments()))
        {
            Fill(device, tag: 1);
            if (hasSnapshot)
                device.CreateSnapshot("s");
        }

        using (Qcow2Device device = Qcow2Device.Open(new Unowned(file), new FormatOpenArguments { Memory = budget }))
        {
            needed = budget.Taken;
            using MemoryCharge others = budget.Take((1 << 20) - needed, "others", "their tables");
            Assert.Equal(BlockErrorKind.NoMemory,
                Assert.Throws<BlockException>(() => device.CreateSnapshot("no memory")).Kind);

            // The first write, new tables, and a refcount table that grows.
            Fill(device, tag: 2);
            device.Write(63L << 20, Stamp.Bytes(0, 1 << 20, 3));
            device.Flush();
            device.Write(0, Stamp.Bytes(0, 4096, 4));
        }

        Assert.Equal(0, budget.Taken);
        BlockException refused = Assert.Throws<BlockException>(() => Qcow2Device.Open(
            new Unowned(file), new FormatOpenArguments { Memory = new MemoryBudget(needed - 100) }));
        Assert.Equal(BlockErrorKind.NoMemory, refused.Kind);
        byte[] bytes = new byte[file.Length];
        file.Read(0, bytes);
        PlainCheck check = new PlainReader(new ArrayImage(bytes)).Check();
        Assert.Equal((0, 0L), (check.Errors.Count, check.Leaks));

        static void Fill(Qcow2Device device, int tag)
        {
            for (int i = 0; i < 32; i++)
                device.Write(i << 20, Stamp.Bytes(i << 20, 256 << 10, (byte)tag));
        }
    }

    [Fact]
    public void The_list_of_all_tables_is_not_the_runtimes()
    {
        const int Count = 1 << 18;
        MemoryBudget budget = new(64 << 20);
        using MemoryDevice file = FanImage.Create(9, Count, _ => 0);
        long end = file.Length;
        file.Resize(end + (Count * 1024L));
        byte[] l1 = new byte[Count * 8];
        for (int i = 0; i < Count; i++)
            BinaryPrimitives.WriteUInt64BigEndian(l1.AsSpan(i * 8), (ulong)(end + (i * 1024L)));
        file.Write(3 * 512, l1);
        using Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments { Memory = budget });
        Assert.InRange(budget.Taken, Count * 24, Count * 32);
        long before = GC.GetTotalAllocatedBytes(precise: true);

        // What happens before the first write, without the write.
        device.Write(0, []);
        Assert.InRange(GC.GetTotalAllocatedBytes(precise: true) - before, 0, 1 << 20);
        Assert.InRange(budget.Taken, Count * 24, Count * 32);
    }

    [Fact]
    public void A_list_of_snapshots_takes_memory_while_the_image_is_open()
    {
        MemoryBudget budget = new(8 << 20);
        using MemoryDevice file = NamesImage.WithSnapshots(1000, idBytes: 5, nameBytes: 2000);
        using (Qcow2Device device = Qcow2Device.Open(
            file, new FormatOpenArguments { ReadOnly = true, Memory = budget }))
        {
            long before = budget.Taken;
            Assert.Equal(BlockErrorKind.NoMemory, Assert.Throws<BlockException>(() => device.OpenSnapshot("1")).Kind);
            Assert.Equal(before, budget.Taken);

            // By parts it can be read all the same.
            int seen = 0;
            device.VisitSnapshots(0, record =>
            {
                Assert.Equal(2000, record.Snapshot.Name.Length);
                seen++;
                return true;
            });
            Assert.Equal(1000, seen);
        }

        Assert.Equal(0, budget.Taken);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Tables_of_names_are_read_by_parts(bool bitmaps)
    {
        // 60 MiB of names; ten of them at a time would be too many.
        using MemoryDevice file = bitmaps
            ? NamesImage.WithBitmaps(60_000, 1000) : NamesImage.WithSnapshots(480, 65535, 65535);
        Qcow2ImageInfo info = Qcow2ImageInfo.Read(file);
        long before = GC.GetTotalMemory(forceFullCollection: true);
        long most = 0;
        int seen = 0;
        int step = bitmaps ? 6000 : 48;
        foreach (object _ in bitmaps ? (IEnumerable<object>)info.Bitmaps : info.Snapshots)
        {
            if (++seen % step == 0)
                most = Math.Max(most, GC.GetTotalMemory(forceFullCollection: true) - before);
        }

        Assert.Equal(bitmaps ? 60_000 : 480, seen);
        Assert.InRange(most, 0, 16 << 20);
        Assert.Null(BitmapSet.WhyNotKept(file, Qcow2HeaderReader.Read(file)));
    }

    /// <summary>Lets a device be opened and closed on the same memory several times.</summary>
    private sealed class Unowned(BlockDevice child) : PassThroughDevice(child);

    private static MemoryDevice NewFile(long size, int clusterSize = 65536)
    {
        MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = size, ClusterSize = clusterSize });
        return file;
    }
}
