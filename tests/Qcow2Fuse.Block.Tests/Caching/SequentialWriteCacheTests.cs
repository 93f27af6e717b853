// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Block.Tests;

/// <summary>Small sequential writes become whole clusters.</summary>
public sealed class SequentialWriteCacheTests : IDisposable
{
    private const int ClusterSize = 4096;
    private const int Capacity = 4;
    private static readonly TimeSpan Patience = Eventually.Patience;

    private readonly MemoryDevice _memory = new();
    private readonly FaultyDevice _faults;
    private readonly OrderRecorder _order;
    private readonly SequentialWriteCache _cache;

    public SequentialWriteCacheTests()
    {
        _faults = new FaultyDevice(_memory);
        _order = new OrderRecorder(_faults);
        _cache = new SequentialWriteCache(_order, ClusterSize, Capacity);
    }

    public void Dispose()
    {
        _cache.Dispose();
        _order.Dispose();
        _faults.Dispose();
        _memory.Dispose();
    }

    [Fact]
    public void Small_writes_reach_the_device_as_one_cluster()
    {
        Append(0, 1000, 1000, 1000, 1000);
        _cache.WriteFinished();
        Assert.Empty(_order.Requests);
        Append(4000, 1000);
        _cache.WriteFinished();
        Assert.Equal([new RecordedRequest(BlockOp.Write, 0, ClusterSize)], _order.Requests);
        ShouldRead(4096, 904, cached: true);
        ShouldRead(0, 4096, cached: false);
    }

    [Fact]
    public void A_cluster_is_finished_by_the_start_of_another_one_and_padded_to_its_end()
    {
        _memory.Write(0, DeviceModel.Pattern(2 * ClusterSize, seed: 1));
        Append(0, 1234);
        Append(8 * ClusterSize, 10);
        _cache.WriteFinished();
        Assert.Equal([new RecordedRequest(BlockOp.Write, 0, ClusterSize)], _order.Requests);
        ShouldRead(0, 1234, cached: false);
        byte[] tail = new byte[ClusterSize - 1234];
        _memory.Read(1234, tail);
        Assert.Equal(new byte[tail.Length], tail);
    }

    [Fact]
    public void An_unfinished_cluster_is_written_exactly_and_continued()
    {
        byte[] before = DeviceModel.Pattern(ClusterSize, seed: 1);
        _memory.Write(0, before);
        Append(0, 1000);
        _cache.Flush();
        _cache.Flush();
        Append(1000, 500);
        _cache.Flush();
        Append(1500, ClusterSize - 1500);
        _cache.Flush();
        Assert.Equal(
            [
                new RecordedRequest(BlockOp.Write, 0, 1000),
                new RecordedRequest(BlockOp.Write, 1000, 500),
                new RecordedRequest(BlockOp.Write, 0, ClusterSize),
            ],
            _order.Requests);
        Assert.Equal(0, _cache.Count);
        ShouldRead(0, ClusterSize, cached: false);
    }

    [Fact]
    public void A_flush_does_not_touch_what_lies_behind_an_unfinished_cluster()
    {
        byte[] behind = DeviceModel.Pattern(100, seed: 1);
        _memory.Write(1000, behind);
        Append(0, 1000);
        _cache.Flush();
        byte[] seen = new byte[100];
        _memory.Read(1000, seen);
        Assert.Equal(behind, seen);
    }

    [Fact]
    public void Clusters_are_written_in_the_order_in_which_they_were_begun()
    {
        Append(16 * ClusterSize, 100);
        Append(3 * ClusterSize, ClusterSize);
        Append(9 * ClusterSize, 7);
        _cache.Flush();
        Assert.Equal([16L * ClusterSize, 3 * ClusterSize, 9 * ClusterSize],
            _order.Requests.Select(static request => request.Offset));
        Assert.Equal(7, _order.Requests[^1].Length);
    }

    [Theory]
    [InlineData(999)]
    [InlineData(1001)]
    [InlineData(0)]
    [InlineData(ClusterSize + 1)]
    public void A_write_that_is_not_sequential_is_a_mistake_of_the_caller(long offset)
    {
        Append(0, 1000);
        Assert.Throws<InvalidOperationException>(() => Append(offset, 10));
    }

    [Fact]
    public void There_is_a_bound_and_room_can_be_made()
    {
        for (int i = 0; i < Capacity; i++)
            Append(2L * i * ClusterSize, 10);
        Assert.False(_cache.HasRoom(1));
        Assert.Throws<InvalidOperationException>(() => Append(100 * ClusterSize, 1));
        _cache.MakeRoom(2);
        Assert.True(_cache.HasRoom(2));
        Assert.Equal(2, _order.Requests.Count);
        Append(100 * ClusterSize, 1);
    }

    [Fact]
    public void A_discarded_cluster_is_never_written_and_can_be_begun_again()
    {
        Append(0, 1000);
        _cache.Discard(0);
        _cache.Flush();
        Assert.Empty(_order.Requests);
        Assert.False(_cache.Contains(10));
        Append(0, 300);
        Append(ClusterSize, 1);
        _cache.Discard(0);
        _cache.Flush();
        Assert.Equal([new RecordedRequest(BlockOp.Write, ClusterSize, 1)], _order.Requests);
    }

    [Fact]
    public async Task Discarding_waits_for_a_write_under_way()
    {
        Append(0, ClusterSize);
        using HeldRequest held = _faults.Hold(BlockOp.Write);
        Task flush = Task.Run(_cache.Flush);
        held.WaitUntilHeld();
        TestThread discard = TestThread.Start(() => _cache.Discard(0));
        discard.ShouldWait("the cluster is being written");
        held.Release();
        await flush.WaitAsync(Patience);
        discard.ShouldEnd();
    }

    [Fact]
    public async Task A_write_may_continue_a_cluster_that_is_being_flushed()
    {
        Append(0, 1000);
        using HeldRequest held = _faults.Hold(BlockOp.Write);
        Task flush = Task.Run(_cache.Flush);
        held.WaitUntilHeld();
        Append(1000, 3096);
        held.Release();
        await flush.WaitAsync(Patience);
        _cache.Flush();
        Assert.Equal(
            [new RecordedRequest(BlockOp.Write, 0, 1000), new RecordedRequest(BlockOp.Write, 0, ClusterSize)],
            _order.Requests);
        ShouldRead(0, ClusterSize, cached: false);
    }

    [Fact]
    public void The_first_failure_is_final_and_nothing_is_lost_for_readers()
    {
        Append(0, ClusterSize);
        Append(ClusterSize, 100);
        _faults.Fail(new FaultRule { Op = BlockOp.Write, Error = BlockErrorKind.NoSpace });
        BlockException first = Assert.Throws<BlockException>(_cache.WriteFinished);
        Assert.Equal(BlockErrorKind.NoSpace, first.Kind);
        _faults.Heal();
        foreach (Action action in (Action[])
            [_cache.Flush, _cache.WriteFinished, () => Append(ClusterSize + 100, 1), _cache.Flush])
        {
            Assert.Equal(BlockErrorKind.NoSpace, Assert.Throws<BlockException>(action).Kind);
        }

        ShouldRead(0, ClusterSize, cached: true);
        ShouldRead(ClusterSize, 100, cached: true);
    }

    [Fact]
    public void A_device_of_fixed_size_may_end_inside_the_last_cluster()
    {
        using FixedDevice device = new(ClusterSize + 512);
        using SequentialWriteCache cache = new(device, ClusterSize, Capacity);
        cache.Write(ClusterSize, new byte[100]);
        cache.Write(0, new byte[100]);
        cache.Flush();
        Assert.Equal([(ClusterSize, 512), (0, 100)], device.Writes);
    }

    [Fact]
    public void Random_sequences_keep_every_byte()
    {
        SeededRandom random = new(7);
        long at = 0;
        List<(long Offset, int Length)> live = [];
        for (int step = 0; step < 20_000; step++)
        {
            switch (random.Below(12))
            {
                case 0:
                    at = (at + ClusterSize + (random.Below(3) * ClusterSize)) & -(long)ClusterSize;
                    break;
                case 1:
                    _cache.Flush();
                    break;
                case 2:
                    _cache.WriteFinished();
                    break;
                case 3 when live.Count > 0:
                    (long offset, int length) = live[random.Below(live.Count)];
                    ShouldReadEitherWay(offset, length);
                    break;
                default:
                    int bytes = 1 + random.Below(ClusterSize - 1);
                    _cache.MakeRoom(2);
                    Append(at, bytes);
                    live.Add((at, bytes));
                    at += bytes;
                    break;
            }
        }

        _cache.Flush();
        foreach ((long offset, int length) in live)
            ShouldReadEitherWay(offset, length);
        foreach (RecordedRequest request in _order.Requests)
            Assert.Equal(request.Offset / ClusterSize, (request.End - 1) / ClusterSize);
    }

    private void Append(long offset, params int[] lengths)
    {
        foreach (int length in lengths)
        {
            _cache.Write(offset, Stamp.Bytes(offset, length, 1));
            offset += length;
        }
    }

    private void ShouldRead(long offset, int length, bool cached)
    {
        byte[] seen = new byte[length];
        Assert.Equal(cached, _cache.Contains(offset));
        if (cached)
            Assert.Equal(length, _cache.Read(offset, seen));
        else
            _memory.Read(offset, seen);
        Assert.Equal(Stamp.Bytes(offset, length, 1), seen);
    }

    private void ShouldReadEitherWay(long offset, int length)
    {
        while (length > 0)
        {
            int step = (int)Math.Min(length, ClusterSize - (offset % ClusterSize));
            ShouldRead(offset, step, _cache.Contains(offset));
            offset += step;
            length -= step;
        }
    }

    private sealed class FixedDevice(long length) : BlockDevice
    {
        public List<(int Offset, int Length)> Writes { get; } = [];

        public override string Name => "fixed";

        public override long Length => length;

        public override bool IsReadOnly => false;

        public override void Read(long offset, Span<byte> destination) => destination.Clear();

        public override void Write(long offset, ReadOnlySpan<byte> source)
        {
            CheckRange(offset, source.Length);
            Writes.Add(((int)offset, source.Length));
        }

        public override void Flush()
        {
        }

        public override Extent GetExtent(long offset, long length) =>
            new(offset, length, ExtentKind.Data, offset, Depth: 0);
    }
}
