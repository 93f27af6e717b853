// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Compressed writes: what becomes of the clusters, and the requests to the file.</summary>
public sealed class CompressedWriteTests
{
    private const int ClusterSize = 65536;
    private const ulong Soft = Stamp.Compressible;

    [Theory]
    [InlineData(CompressionType.Deflate, 512)]
    [InlineData(CompressionType.Deflate, 4096)]
    [InlineData(CompressionType.Deflate, 65536)]
    [InlineData(CompressionType.Deflate, 2 << 20)]
    [InlineData(CompressionType.Zstd, 512)]
    [InlineData(CompressionType.Zstd, 65536)]
    public void Whole_clusters_become_compressed_clusters(CompressionType compression, int clusterSize)
    {
        using TestImage image = Create(clusterSize, 8, compression);
        image.Write(0, 8 * clusterSize, Soft | 1);
        image.ShouldRead(0, 8 * clusterSize, Soft | 1).ShouldPassCheck();
        for (int i = 0; i < 8; i++)
            Assert.Equal(PlaceKind.Compressed, image.Plain.Locate((long)i * clusterSize).Kind);
        image.Reopen().ShouldRead(0, 8 * clusterSize, Soft | 1).ShouldPassCheck();
    }

    [Fact]
    public void Compressed_clusters_share_host_clusters()
    {
        using TestImage image = Create(ClusterSize, 64);
        image.Write(0, 64 * ClusterSize, Soft | 1).Close();
        Assert.InRange(image.Disk.Length, 0, 16 * ClusterSize);
    }

    [Fact]
    public void Ordinary_clusters_in_between_leave_no_gaps()
    {
        using TestImage image = Create(ClusterSize, 256);
        for (int i = 0; i < 256; i++)
            image.Write((long)i * ClusterSize, ClusterSize, (uint)i | (i % 2 == 0 ? Soft : 0));
        image.Close();
        long packed = Enumerable.Range(0, 128).Sum(i =>
            512 * (1 + ((long)(image.L2EntryOf(2L * i * ClusterSize) >> 54) & 0xff)));
        Assert.InRange(image.Disk.Length, 0, packed + ((128 + 8) * (long)ClusterSize));
        image.Reopen();
        for (int i = 0; i < 256; i++)
            image.ShouldRead((long)i * ClusterSize, ClusterSize, (uint)i | (i % 2 == 0 ? Soft : 0));
        image.ShouldPassCheck();
    }

    [Fact]
    public void A_cluster_that_does_not_become_smaller_is_an_ordinary_one()
    {
        using TestImage image = Create(ClusterSize, 8);
        image.Write(0, 2 * ClusterSize, 1).ShouldPassCheck();
        Assert.Equal(PlaceKind.Data, image.Plain.Locate(0).Kind);
        image.Write(0, ClusterSize, Soft | 2).Write(ClusterSize, ClusterSize, 3).Reopen().ShouldPassCheck();
        Assert.Equal(PlaceKind.Compressed, image.Plain.Locate(0).Kind);
        Assert.Equal(PlaceKind.Data, image.Plain.Locate(ClusterSize).Kind);
        image.ShouldRead(0, ClusterSize, Soft | 2).ShouldRead(ClusterSize, ClusterSize, 3);
    }

    [Fact]
    public void A_compressed_cluster_can_be_overwritten_whole_and_in_part()
    {
        using TestImage image = Create(ClusterSize, 8);
        image.Write(0, 4 * ClusterSize, Soft | 1).Device.Flush();
        image.Write(0, ClusterSize, Soft | 2).Write(ClusterSize + 5000, 777, Soft | 3).Device.Flush();
        image.Write(2 * ClusterSize, ClusterSize, 4).Reopen();
        image.ShouldRead(0, ClusterSize, Soft | 2).ShouldRead(ClusterSize, 5000, Soft | 1)
            .ShouldRead(ClusterSize + 5000, 777, Soft | 3)
            .ShouldRead(ClusterSize + 5777, ClusterSize - 5777, Soft | 1)
            .ShouldRead(2 * ClusterSize, ClusterSize, 4).ShouldRead(3 * ClusterSize, ClusterSize, Soft | 1)
            .ShouldPassCheck();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Zeroes_take_no_room(bool backed)
    {
        byte[]? backing = backed ? Stamp.Bytes(0, 8 * ClusterSize, 9) : null;
        using TestImage image = TestImage.Create(Options(ClusterSize, 8), backing, Compressing);
        image.WritePattern(0, 8 * ClusterSize, 0).ShouldPassCheck();
        for (int i = 0; i < 8; i++)
        {
            PlaceKind kind = image.Plain.Locate((long)i * ClusterSize).Kind;
            Assert.Equal(backed ? PlaceKind.Zero : PlaceKind.Unallocated, kind);
        }

        image.ShouldReadZeroes(0, 8 * ClusterSize);
    }

    [Fact]
    public void Zeroes_over_a_backing_file_in_version_2_are_compressed()
    {
        byte[] backing = Stamp.Bytes(0, 8 * ClusterSize, 9);
        Qcow2CreateOptions options = Options(ClusterSize, 8) with { Version = 2 };
        using TestImage image = TestImage.Create(options, backing, Compressing);
        image.WritePattern(0, 2 * ClusterSize, 0).Device.WriteZeroes(2 * ClusterSize, ClusterSize, mayUnmap: true);
        image.ShouldReadZeroes(0, 3 * ClusterSize).ShouldRead(3 * ClusterSize, ClusterSize, 9).ShouldPassCheck();
        Assert.Equal(PlaceKind.Compressed, image.Plain.Locate(0).Kind);
        Assert.Equal(PlaceKind.Compressed, image.Plain.Locate(2 * ClusterSize).Kind);
    }

    [Fact]
    public void What_is_gathered_is_read_at_once_and_told_as_an_extent()
    {
        using TestImage image = Create(ClusterSize, 8);
        image.Write(1000, 500, Soft | 1).Write(ClusterSize + 7, 10, Soft | 2);
        image.ShouldReadZeroes(0, 1000).ShouldRead(1000, 500, Soft | 1).ShouldReadZeroes(1500, 1000)
            .ShouldRead(ClusterSize + 7, 10, Soft | 2);
        Assert.Equal(ExtentKind.Compressed, image.Device.GetExtent(100, 8 * ClusterSize - 100).Kind);
        Extent hole = image.Device.GetExtent(2 * ClusterSize, ClusterSize);
        Assert.Equal(ExtentKind.Unallocated, hole.Kind);
        Assert.DoesNotContain(image.Order.Requests, static request => request.Op == BlockOp.Write);
        image.Device.WriteZeroes(0, 2 * ClusterSize, mayUnmap: true);
        image.ShouldReadZeroes(0, 2 * ClusterSize).ShouldPassCheck();
    }

    [Fact]
    public void A_backing_file_shows_around_what_was_written()
    {
        byte[] backing = Stamp.Bytes(0, (3 * ClusterSize) + 777, 9);
        using TestImage image = TestImage.Create(Options(ClusterSize, 8), backing, Compressing);
        image.Write(100, 200, Soft | 1).Write((3 * ClusterSize) + 700, 10, Soft | 2);
        for (int i = 0; i < 2; i++)
        {
            image.ShouldRead(0, 100, 9).ShouldRead(100, 200, Soft | 1).ShouldRead(300, 3000, 9)
                .ShouldRead((3 * ClusterSize) + 700, 10, Soft | 2).ShouldRead((3 * ClusterSize) + 710, 67, 9)
                .ShouldReadZeroes((3 * ClusterSize) + 777, 1000).Reopen();
        }

        image.ShouldPassCheck();
    }

    [Theory]
    [InlineData(1000)]
    [InlineData(4096)]
    [InlineData(1 << 20)]
    public void The_file_sees_whole_finished_clusters_each_once(int blockSize)
    {
        using TestImage image = Create(ClusterSize, 512);
        image.Order.Clear();
        Sequential(image, 0, 512 * ClusterSize, blockSize);
        RecordedRequest[] writes = Writes(image);
        Assert.NotEmpty(writes);
        Assert.All(writes, static write => Assert.Equal((0, ClusterSize), (write.Offset % ClusterSize, write.Length)));
        Assert.Equal(writes.Length, writes.Select(static write => write.Offset).Distinct().Count());
        Assert.Equal(writes.Select(static write => write.Offset).Order(), writes.Select(static write => write.Offset));

        image.Order.Clear();
        image.Device.Flush();
        RecordedRequest last = image.Order.Requests.Last(
            write => write.Op == BlockOp.Write && write.Offset > writes[^1].Offset);
        Assert.Equal(0, last.Offset % ClusterSize);
        Assert.NotEqual(0, last.Length % ClusterSize);
        image.ShouldPassCheck();
    }

    [Fact]
    public void Packed_bytes_are_durable_before_the_entry()
    {
        using TestImage image = Create(ClusterSize, 64);
        image.Write(0, ClusterSize, Soft | 1).Device.Flush();
        image.Order.Clear();
        image.Write(ClusterSize, ClusterSize, Soft | 2).Device.Flush();
        long host = (long)(image.L2EntryOf(ClusterSize) & ((1UL << 54) - 1));
        RecordedRequest[] requests = [.. image.Order.Requests];
        int data = Array.FindIndex(requests, write => write.Op == BlockOp.Write && write.Overlaps(host, 1));
        int flush = Array.FindIndex(requests, request => request.Op == BlockOp.Flush);
        long table = (long)(image.PeekBigEndian((long)image.PeekBigEndian(40)) & 0x00ff_ffff_ffff_fe00);
        int entry = Array.FindIndex(requests, write => write.Op == BlockOp.Write && write.Overlaps(table, 16));
        Assert.InRange(data, 0, flush);
        Assert.True(flush < entry);
    }

    /// <summary>
    /// Whether the write that fails is a packer's or the flush's own is a matter of time. Closing does not fail again.
    /// </summary>
    [Fact]
    public void Every_flush_after_a_failed_write_fails()
    {
        for (int round = 0; round < 300; round++)
        {
            using TestImage image = Create(ClusterSize, 64);
            image.Write(0, ClusterSize, Soft | 1);
            image.Faults.Fail(new FaultRule { Op = BlockOp.Write });
            Assert.Throws<BlockException>(image.Device.Flush);
            image.Faults.Heal();
            for (int i = 0; i < 3; i++)
                Assert.Throws<BlockException>(image.Device.Flush);
            Assert.Throws<BlockException>(() => image.Write(ClusterSize, ClusterSize, Soft | 2));
            image.ShouldRead(0, ClusterSize, Soft | 1);
        }
    }

    [Fact]
    public void What_could_not_be_stored_is_stored_by_a_later_flush()
    {
        byte[] backing = Stamp.Bytes(0, 8 * ClusterSize, 9);
        using TestImage image = TestImage.Create(Options(ClusterSize, 8), backing, Compressing);
        image.Write(0, 4 * ClusterSize, Soft | 1).Reopen().Write(100, 100, Soft | 2);

        // The rest of the cluster cannot be read.
        image.Faults.Fail(new FaultRule { Op = BlockOp.Read, Times = int.MaxValue });
        Assert.Throws<BlockException>(image.Device.Flush);
        image.Faults.Heal();
        image.ShouldRead(100, 100, Soft | 2);
        image.Device.Flush();
        image.Reopen().ShouldRead(0, 100, Soft | 1).ShouldRead(100, 100, Soft | 2)
            .ShouldRead(200, 1000, Soft | 1).ShouldPassCheck();
    }

    [Fact]
    public void Clusters_that_are_rewritten_again_and_again_do_not_let_the_file_grow()
    {
        using TestImage image = Create(ClusterSize, 64);
        for (int i = 0; i < 200; i++)
            image.Write(0, 8 * ClusterSize, Soft | (uint)i).Device.Flush();
        Assert.InRange(image.Disk.Length, 0, 32 * ClusterSize);
        image.Reopen().ShouldRead(0, 8 * ClusterSize, Soft | 199).ShouldPassCheck();
    }

    [Fact]
    public void The_tail_of_a_disk_that_ends_inside_a_cluster_is_stored()
    {
        Qcow2CreateOptions options = Options(ClusterSize, 2) with { Size = ClusterSize + 1536 };
        using TestImage image = TestImage.Create(options, null, Compressing);
        image.Write(ClusterSize, 1536, Soft | 1).Reopen().ShouldRead(ClusterSize, 1536, Soft | 1);
        image.Device.Resize(4 * ClusterSize);
        image.ShouldReadZeroes(ClusterSize + 1536, ClusterSize).Write(3 * ClusterSize, ClusterSize, Soft | 2)
            .Reopen().ShouldRead(3 * ClusterSize, ClusterSize, Soft | 2).ShouldPassCheck();
    }

    [Theory]
    [InlineData(CompressedWrites.Off)]
    [InlineData(CompressedWrites.AsImage)]
    public void What_is_cut_off_inside_a_cluster_does_not_come_back(CompressedWrites compress)
    {
        const int Half = 32 * ClusterSize;
        using TestImage image = TestImage.Create(
            Options(ClusterSize, 64), null, Compressing with { Compress = compress });
        image.Write(0, 2 * Half, Soft | 1).Write(100, 1000, Soft | 2).Write(Half + 100, 1000, Soft | 2);
        image.Device.Resize(Half + 512);
        image.Write(Half, 512, Soft | 3).Device.Resize(2 * Half);
        image.ShouldRead(100, 1000, Soft | 2).ShouldRead(2000, Half - 2000, Soft | 1)
            .ShouldRead(Half, 512, Soft | 3).ShouldReadZeroes(Half + 512, Half - 512);
        image.Reopen().ShouldRead(Half, 512, Soft | 3).ShouldReadZeroes(Half + 512, Half - 512).ShouldPassCheck();
    }

    [Theory]
    [InlineData(CompressionType.Deflate, CompressedWrites.Zstd, "the image compresses with zlib, not zstd")]
    [InlineData(CompressionType.Zstd, CompressedWrites.Zlib, "the image compresses with zstd, not zlib")]
    public void Another_compression_than_the_images_is_refused(
        CompressionType compression, CompressedWrites wanted, string reason)
    {
        BlockException refused = Assert.Throws<BlockException>(() => TestImage.Create(
            Options(4096, 8) with { Compression = compression }, null, Compressing with { Compress = wanted }));
        Assert.Contains(reason, refused.Message, StringComparison.Ordinal);
        Assert.Equal(FailureCode.CompressionDiffers, refused.Cause?.Code);
    }

    private static FormatOpenArguments Compressing => new() { Compress = CompressedWrites.AsImage };

    private static Qcow2CreateOptions Options(int clusterSize, int clusters) =>
        new() { Size = (long)clusters * clusterSize, ClusterSize = clusterSize };

    private static TestImage Create(
        int clusterSize, int clusters, CompressionType compression = CompressionType.Deflate) =>
        TestImage.Create(Options(clusterSize, clusters) with { Compression = compression }, null, Compressing);

    private static void Sequential(TestImage image, long start, long end, int blockSize)
    {
        for (long at = start; at < end; at += blockSize)
            image.Write(at, (int)Math.Min(blockSize, end - at), Soft | 5);
    }

    /// <summary>Writes of packed clusters; the tables are written by flushes, and there has been none.</summary>
    private static RecordedRequest[] Writes(TestImage image) =>
        [.. image.Order.Requests.Where(static request => request.Op == BlockOp.Write)];
}
