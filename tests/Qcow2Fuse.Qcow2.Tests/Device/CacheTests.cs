// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Metadata;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>What the metadata caches hold, and for how long; what discards keep.</summary>
public sealed class CacheTests
{
    [Fact]
    public void Tables_that_nobody_uses_are_given_up_and_read_again()
    {
        using MemoryDevice file = NewFile(64L << 20);
        using Qcow2Device device = Qcow2Device.Open(
            file, With(new Qcow2Options { CacheCleanInterval = TimeSpan.FromMilliseconds(50) }));
        device.Write(0, Stamp.Bytes(0, 100_000, 1));
        Assert.True(device.Statistics.L2.Held > 0);
        device.Flush();
        Eventually.Holds(() => device.Statistics is { L2.Held: 0, RefcountBlocks.Held: 0 }, "tables are still held");
        long misses = device.Statistics.L2.Misses;
        byte[] seen = new byte[100_000];
        device.Read(0, seen);
        Assert.Equal(Stamp.Bytes(0, 100_000, 1), seen);
        Assert.True(device.Statistics.L2.Misses > misses);
    }

    [Fact]
    public void Dirty_tables_stay_until_they_are_flushed()
    {
        // Two L2 tables; that of the far one is clean and was used last. Whoever gives it up has been at the other one.
        const long Far = 1L << 30;
        using MemoryDevice file = NewFile(2L << 30);
        using Qcow2Device device = Qcow2Device.Open(
            file, With(new Qcow2Options { CacheCleanInterval = TimeSpan.FromMilliseconds(20) }));
        device.Write(Far, Stamp.Bytes(Far, 4096, 2));
        device.Flush();
        device.Write(0, Stamp.Bytes(0, 100_000, 1));
        device.Read(Far, new byte[4096]);
        Eventually.Holds(() => device.Statistics.L2.Held <= 1, "the clean table is not given up");
        Assert.Equal(1, device.Statistics.L2.Held);
        byte[] seen = new byte[100_000];
        device.Read(0, seen);
        Assert.Equal(Stamp.Bytes(0, 100_000, 1), seen);
    }

    [Fact]
    public void Writers_and_readers_go_on_while_tables_are_given_up()
    {
        using MemoryDevice file = NewFile(64L << 20);
        using Qcow2Device device = Qcow2Device.Open(
            file, With(new Qcow2Options { CacheCleanInterval = TimeSpan.FromMilliseconds(1), L2CacheBytesMax = 1 }));
        Parallel.For(0, 4, worker =>
        {
            SeededRandom random = new((ulong)worker);
            for (int i = 0; i < 3000; i++)
            {
                long at = (worker * (16L << 20)) + (random.Below(4000) * 4096L);
                device.Write(at, Stamp.Bytes(at, 4096, 5));
                byte[] seen = new byte[4096];
                device.Read(at, seen);
                Assert.True(Stamp.Bytes(at, 4096, 5).AsSpan().SequenceEqual(seen));
                if (i % 100 == 0)
                    device.Flush();
            }
        });
    }

    [Fact]
    public void The_cache_counts_what_it_does()
    {
        using MemoryDevice file = NewFile(64L << 20);
        using Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments());
        device.Write(0, Stamp.Bytes(0, 4096, 1));
        device.Flush();
        MetadataStatistics before = device.Statistics;
        device.Read(0, new byte[4096]);
        Assert.Equal(before.L2.Hits + 1, device.Statistics.L2.Hits);
        Assert.Equal(before.L2.Misses, device.Statistics.L2.Misses);
        Assert.Equal(1, before.L2.Written);
        Assert.Equal(1, before.Flushes);
    }

    [SkippableTheory]
    [InlineData("cluster_size=64k")]
    [InlineData("cluster_size=64k,extended_l2=on")]
    [InlineData("cluster_size=2M")]
    public void Discards_can_keep_the_place(string options)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, image, "8M");
        QemuTools.Io(image, "write -P 1 0 8M");
        string before = QemuTools.Img("map", "--output=json", image);
        using (FileDevice file = FileDevice.Open(image, readOnly: true))
        {
            long allocated = file.AllocatedBytes;
            using (Qcow2Device device = Qcow2Device.Open(
                FileDevice.Open(image, readOnly: false),
                new FormatOpenArguments { Discard = DiscardMode.NoUnref }))
            {
                device.Discard(0, 4 << 20);
                Assert.Equal(allocated, file.AllocatedBytes);
                device.Write(2 << 20, Stamp.Bytes(0, 65536, 3));
                device.Flush();
                Assert.InRange(file.AllocatedBytes, allocated - (4 << 20) - 65536, allocated - (1 << 20));
                byte[] seen = new byte[4 << 20];
                device.Read(0, seen);
                Assert.Equal(-1, seen.AsSpan(0, 2 << 20).IndexOfAnyExcept((byte)0));
                Assert.Equal(Stamp.Bytes(0, 65536, 3), seen[(2 << 20)..((2 << 20) + 65536)]);
                device.Write(0, Stamp.Bytes(0, 4 << 20, 4));
            }
        }

        QemuTools.ShouldPassCheck(image);

        // Every cluster lies where it lay.
        Assert.Equal(before, QemuTools.Img("map", "--output=json", image));
        Assert.Equal(Stamp.Bytes(0, 4 << 20, 4), QemuTools.ConvertToRaw(image)[..(4 << 20)]);
    }

    [Fact]
    public void Closing_twice_is_closing_once()
    {
        using TestImage image = TestImage.Create(version: 3, clusterSize: 4096, extendedL2: false);
        image.Write(0, 100_000, tag: 1);
        BlockDevice device = image.Device;
        image.Close();
        int requests = image.Disk.Log.Count;
        device.Dispose();
        Assert.Equal(requests, image.Disk.Log.Count);
        image.Reopen().ShouldRead(0, 100_000, tag: 1).ShouldPassCheck();
    }

    private static FormatOpenArguments With(Qcow2Options options) => new() { Formats = [options] };

    private static MemoryDevice NewFile(long size)
    {
        MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = size });
        return file;
    }
}
