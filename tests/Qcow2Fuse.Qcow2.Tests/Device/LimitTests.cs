// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Globalization;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>The largest disks there are, and tables that can grow no more.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class LimitTests
{
    private const long ExbiByte = 1L << 60;

    [Fact]
    public void A_disk_of_64_TiB_opens_with_the_requests_of_one_of_64_MiB()
    {
        (long small, long large) = (RequestsOfOpening(64L << 20), RequestsOfOpening(64L << 40));
        Assert.Equal(small, large);
        Assert.InRange(small, 1, 10);
    }

    [SkippableTheory]
    [InlineData(2 << 20, false, 2 * ExbiByte)]
    [InlineData(2 << 20, true, ExbiByte)]
    [InlineData(65536, false, 2L << 50)]
    [InlineData(65536, true, 1L << 50)]
    [InlineData(4096, false, 8L << 40)]
    [InlineData(512, false, 128L << 30)]
    public void The_largest_disk_is_written_at_both_ends(int clusterSize, bool extended, long size)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        Qcow2CreateOptions options = new() { Size = size, ClusterSize = clusterSize, ExtendedL2 = extended };
        using (FileDevice file = FileDevice.Create(image, replace: true))
            Qcow2Creator.Create(file, options);
        long last = size - 5000;
        using (Qcow2Device device = Open(image))
        {
            Assert.Equal(size, device.Length);
            device.Write(0, Stamp.Bytes(0, 5000, 1));
            device.Write(last, Stamp.Bytes(last, 5000, 2));
            device.WriteZeroes(size / 2, 1 << 20, mayUnmap: true);
            device.Flush();
            byte[] seen = new byte[5000];
            device.Read(last, seen);
            Assert.Equal(Stamp.Bytes(last, 5000, 2), seen);
            Assert.Equal(
                BlockErrorKind.TooLarge,
                Assert.Throws<BlockException>(() => device.Resize(size + clusterSize)).Kind);
            Assert.Equal(size, device.Length);
        }

        QemuTools.ShouldPassCheck(image);
        string range = string.Create(CultureInfo.InvariantCulture, $"read -v {last + 4488} 512");
        string dump = QemuTools.Io(image, range);
        string expected = Convert.ToHexString(Stamp.Bytes(last + 4488, 16, 2));
        Assert.Contains(
            string.Join(" ", Enumerable.Range(0, 16).Select(i => expected.Substring(i * 2, 2).ToLowerInvariant())),
            dump, StringComparison.Ordinal);
        Assert.Equal(
            BlockErrorKind.TooLarge,
            Assert.Throws<BlockException>(
                () => Qcow2Creator.Create(new MemoryDevice(), options with { Size = size + clusterSize })).Kind);
    }

    /// <summary>Tables and data behind cluster 2^32 of a file of 256 TiB, most of it a hole.</summary>
    [Fact]
    public void Host_clusters_beyond_32_bits_are_read_written_and_freed()
    {
        const int Cluster = 65536;
        const long Far = 1L << 48;
        using MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = 2L << 50 });
        byte[] header = new byte[64];
        file.Read(0, header);
        long l1 = BinaryPrimitives.ReadInt64BigEndian(header.AsSpan(40));
        long refcountTable = BinaryPrimitives.ReadInt64BigEndian(header.AsSpan(48));

        // Block, L2 table and one data cluster.
        WriteU64(file, refcountTable + (Far / Cluster / 32768 * 8), Far);
        file.Write(Far, Convert.FromHexString("000100010001"));
        WriteU64(file, l1, (Far + Cluster) | long.MinValue);
        WriteU64(file, Far + Cluster, (Far + (2 * Cluster)) | long.MinValue);
        file.Write(Far + (2 * Cluster), Stamp.Bytes(0, Cluster, 1));
        using (Qcow2Device device = Qcow2Device.Open(new Kept(file), new FormatOpenArguments()))
        {
            byte[] seen = new byte[Cluster];
            device.Read(0, seen);
            Assert.Equal(Stamp.Bytes(0, Cluster, 1), seen);
            device.Write(100, Stamp.Bytes(100, 100, 2));
            device.Write(Cluster, Stamp.Bytes(Cluster, 100, 3));
            device.Flush();
            device.Read(0, seen);
            Assert.Equal(Stamp.Bytes(100, 100, 2), seen[100..200]);
            device.WriteZeroes(0, Cluster, mayUnmap: true);
        }

        byte[] counts = new byte[6];
        file.Read(Far, counts);
        Assert.Equal("000100010000", Convert.ToHexString(counts));
    }

    /// <summary>
    /// A refcount table of 8 MiB, all of whose blocks are full: half a gigabyte of refcounts in a file of that size.
    /// </summary>
    [Fact]
    public void A_full_refcount_table_is_no_space_and_loses_nothing()
    {
        const int Cluster = 512;
        const int Blocks = (8 << 20) / 8;
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        using (FileDevice file = FileDevice.Create(image, replace: true))
        {
            Qcow2Creator.Create(
                file, new Qcow2CreateOptions { Size = 1 << 20, ClusterSize = Cluster, RefcountBits = 64 });
            using (Qcow2Device device = Qcow2Device.Open(
                FileDevice.Open(image, readOnly: false), new FormatOpenArguments()))
                device.Write(0, Stamp.Bytes(0, 10_000, 1));
            Fill(file, Cluster, Blocks);
        }

        using (Qcow2Device device = Open(image))
        {
            BlockException full = Assert.Throws<BlockException>(
                () => device.Write(500_000, Stamp.Bytes(0, 10_000, 1)));
            Assert.Equal(BlockErrorKind.NoSpace, full.Kind);
            device.Write(5000, Stamp.Bytes(5000, 5000, 3));
            device.Flush();
        }

        using Qcow2Device again = Open(image);
        byte[] seen = new byte[10_000];
        again.Read(0, seen);
        Assert.Equal(Stamp.Bytes(0, 5000, 1), seen[..5000]);
        Assert.Equal(Stamp.Bytes(5000, 5000, 3), seen[5000..]);
    }

    /// <summary>Puts a full table and its full blocks behind what the file holds.</summary>
    private static void Fill(FileDevice file, int cluster, int blocks)
    {
        long start = 1 << 20;
        byte[] table = new byte[blocks * 8];
        for (int i = 0; i < blocks; i++)
            BinaryPrimitives.WriteInt64BigEndian(table.AsSpan(i * 8), start + table.Length + ((long)i * cluster));
        file.Write(start, table);
        byte[] ones = new byte[4 << 20];
        for (int i = 7; i < ones.Length; i += 8)
            ones[i] = 1;
        for (long at = 0; at < (long)blocks * cluster; at += ones.Length)
            file.Write(start + table.Length + at, ones);
        byte[] header = new byte[12];
        BinaryPrimitives.WriteInt64BigEndian(header, start);
        BinaryPrimitives.WriteInt32BigEndian(header.AsSpan(8), table.Length / cluster);
        file.Write(48, header);
    }

    private static void WriteU64(MemoryDevice file, long offset, long value)
    {
        byte[] bytes = new byte[8];
        BinaryPrimitives.WriteInt64BigEndian(bytes, value);
        file.Write(offset, bytes);
    }

    private sealed class Kept(BlockDevice child) : PassThroughDevice(child);

    /// <summary>Requests to the file until the first byte of the disk has been read.</summary>
    private static long RequestsOfOpening(long size)
    {
        MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = size });
        FaultyDevice counted = new(file);
        using Qcow2Device device = Qcow2Device.Open(counted, new FormatOpenArguments());
        device.Read(0, new byte[512]);
        return Enum.GetValues<BlockOp>().Sum(counted.CountOf);
    }

    private static Qcow2Device Open(string image) =>
        Qcow2Device.Open(FileDevice.Open(image, readOnly: false), new FormatOpenArguments());
}
