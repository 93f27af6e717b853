// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;
using Qcow2Fuse.Protocols;
using Qcow2Fuse.Qcow2.Tests.Device;
using Qcow2Fuse.Testing;
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

    private static MemoryDevice NewFile(long size)
    {
        MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = size });
        return file;
    }
}
