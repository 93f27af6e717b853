// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>What is durable before what, seen on the requests to the file.</summary>
public sealed class FlushOrderTests
{
    private const int ClusterSize = 65536;

    [Theory]
    [InlineData(1)]
    [InlineData(64)]
    [InlineData(700)]
    public void A_pure_allocation_costs_two_flushes(int clusters)
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 64L << 20 });
        image.Order.Clear();
        for (int i = 0; i < clusters; i++)
            image.Write((long)i * ClusterSize, ClusterSize, 1);
        Assert.Equal(0, image.Order.FlushCount);
        image.Device.Flush();
        Assert.Equal(2, image.Order.FlushCount);
        image.ShouldPassCheck();
    }

    [Fact]
    public void A_flush_with_nothing_to_do_costs_at_most_one()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 64L << 20 });
        image.Write(0, 512, 1).Device.Flush();
        image.Order.Clear();
        image.Device.Flush();
        Assert.InRange(image.Order.FlushCount, 0, 1);
        Assert.DoesNotContain(image.Order.Requests, request => request.Op == BlockOp.Write);
    }

    [Fact]
    public void New_refcount_blocks_cost_at_most_one_flush_each()
    {
        // Clusters of 512 bytes: a refcount block counts 128 KiB.
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 4 << 20, ClusterSize = 512 });
        image.Order.Clear();
        image.Write(0, 1 << 20, 1);
        Assert.Equal(0, image.Order.FlushCount);
        image.Device.Flush();
        Assert.InRange(image.Order.FlushCount, 3, 2 + (int)((1 << 20) / (256 * 512)) + 2);
        image.ShouldPassCheck();
    }

    [Theory]
    [InlineData(512, false)]
    [InlineData(4096, false)]
    [InlineData(65536, false)]
    [InlineData(16384, true)]
    public void No_entry_is_written_before_what_it_points_at_is_durable(int clusterSize, bool extendedL2)
    {
        using TestImage image = TestImage.Create(3, clusterSize, extendedL2);

        // The L2 tables exist, so that new entries are changes of tables the disk reaches.
        for (int i = 0; i < 64; i += 8)
            image.Write((long)i * clusterSize, 512, 1);
        image.Device.Flush();
        image.Order.Clear();
        for (int i = 1; i < 64; i += 2)
            image.Write((long)i * clusterSize, clusterSize, 2);
        image.Device.Flush();

        IReadOnlyList<RecordedRequest> requests = image.Order.Requests;
        for (int i = 1; i < 64; i += 2)
        {
            long guest = (long)i * clusterSize;
            long host = (long)(image.L2EntryOf(guest) & 0x00ff_ffff_ffff_fe00);
            int data = IndexOfWrite(requests, host, clusterSize);
            int counted = IndexOfWrite(requests, RefcountOffset(image, host / clusterSize, clusterSize), 2);
            int linked = IndexOfWrite(requests, EntryOffset(image, guest, clusterSize, extendedL2), 8);
            Assert.True(HasFlushBetween(requests, data, linked), $"cluster {i}: the entry came before its data");
            Assert.True(HasFlushBetween(requests, counted, linked), $"cluster {i}: the entry came before its refcount");
        }
    }

    [Fact]
    public void A_freed_cluster_is_punched_only_after_its_removal_is_durable()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 4 << 20 });
        image.Write(0, 4 * ClusterSize, 1).Device.Flush();
        image.Order.Clear();
        image.Device.WriteZeroes(0, 4 * ClusterSize, mayUnmap: true);
        Assert.DoesNotContain(image.Order.Requests, request => request.Op == BlockOp.Discard);
        image.Device.Flush();

        RecordedRequest[] requests = [.. image.Order.Requests];
        int punched = Array.FindIndex(requests, request => request.Op == BlockOp.Discard);
        int linked = Array.FindIndex(requests, request => request.Op == BlockOp.Write);
        Assert.True(HasFlushBetween(requests, linked, punched));
        image.ShouldPassCheck();
    }

    [Fact]
    public void After_a_failed_flush_nothing_succeeds_any_more()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 4 << 20 });
        image.Write(0, ClusterSize, 1);
        image.Faults.Fail(new FaultRule { Op = BlockOp.Flush });
        Assert.Throws<BlockException>(image.Device.Flush);
        image.Faults.Heal();
        Assert.Throws<BlockException>(image.Device.Flush);
        Assert.Throws<BlockException>(() => image.Write(0, 512, 2));
        Assert.Throws<BlockException>(() => image.Device.WriteZeroes(ClusterSize, ClusterSize, mayUnmap: true));
    }

    private static int IndexOfWrite(IReadOnlyList<RecordedRequest> requests, long offset, long length)
    {
        for (int i = 0; i < requests.Count; i++)
        {
            if (requests[i].Op is BlockOp.Write && requests[i].Overlaps(offset, length))
                return i;
        }

        throw new InvalidOperationException($"nothing was written at {offset}");
    }

    private static bool HasFlushBetween(IReadOnlyList<RecordedRequest> requests, int first, int second)
    {
        for (int i = first + 1; i < second; i++)
        {
            if (requests[i].Op == BlockOp.Flush)
                return true;
        }

        return false;
    }

    private static long RefcountOffset(TestImage image, long cluster, int clusterSize)
    {
        int perBlock = clusterSize / 2;
        long table = (long)image.PeekBigEndian(48);
        long block = (long)image.PeekBigEndian(table + (cluster / perBlock * 8));
        return block + (cluster % perBlock * 2);
    }

    private static long EntryOffset(TestImage image, long guest, int clusterSize, bool extendedL2)
    {
        int entryBytes = extendedL2 ? 16 : 8;
        long perTable = clusterSize / entryBytes;
        long cluster = guest / clusterSize;
        long l1 = (long)image.PeekBigEndian(40);
        long table = (long)(image.PeekBigEndian(l1 + (cluster / perTable * 8)) & 0x00ff_ffff_ffff_fe00);
        return table + (cluster % perTable * entryBytes);
    }
}
