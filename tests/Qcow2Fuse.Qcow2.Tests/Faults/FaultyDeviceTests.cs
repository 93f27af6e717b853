// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Faults;

/// <summary>Injected failures hit the chosen request, and held requests wait.</summary>
public sealed class FaultyDeviceTests
{
    private readonly CrashDevice _disk = new();
    private readonly FaultyDevice _faulty;

    public FaultyDeviceTests()
    {
        _disk.Write(0, new byte[8192]);
        _faulty = new FaultyDevice(_disk);
    }

    [Fact]
    public void The_nth_write_to_a_range_fails_and_the_next_one_works()
    {
        _faulty.Fail(new FaultRule { Op = BlockOp.Write, Nth = 2, Offset = 4096, Length = 512 });
        _faulty.Write(4096, new byte[1]);
        _faulty.Write(0, new byte[1]);
        Assert.Equal(BlockErrorKind.Io, Assert.Throws<BlockException>(() => _faulty.Write(4000, new byte[200])).Kind);
        _faulty.Write(4096, new byte[1]);
        Assert.Equal(1, _faulty.FailureCount);
        Assert.Equal(4, _faulty.CountOf(BlockOp.Write));
    }

    [Fact]
    public void A_torn_write_leaves_its_first_bytes()
    {
        _faulty.Fail(new FaultRule { Op = BlockOp.Write, TornBytes = 3, Error = BlockErrorKind.NoSpace });
        Assert.Equal(
            BlockErrorKind.NoSpace,
            Assert.Throws<BlockException>(() => _faulty.WriteParts(0, [1, 2], [3, 4], [5])).Kind);
        byte[] bytes = new byte[5];
        _disk.Read(0, bytes);
        Assert.Equal([1, 2, 3, 0, 0], bytes);
    }

    [Theory]
    [InlineData(BlockOp.Read)]
    [InlineData(BlockOp.WriteZeroes)]
    [InlineData(BlockOp.Discard)]
    [InlineData(BlockOp.Resize)]
    [InlineData(BlockOp.Flush)]
    public void Every_kind_of_request_can_fail_until_healed(BlockOp op)
    {
        _faulty.Fail(new FaultRule { Op = op, Times = int.MaxValue });
        Assert.Throws<BlockException>(() => Do(op));
        Assert.Throws<BlockException>(() => Do(op));
        _faulty.Heal();
        Do(op);
        Assert.Equal(3, _faulty.CountOf(op));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_held_write_waits_while_others_pass(bool afterEffect)
    {
        using HeldRequest held = _faulty.Hold(BlockOp.Write, offset: 512, length: 512, afterEffect: afterEffect);
        Thread writer = new(() => _faulty.Write(512, [7]));
        writer.Start();
        held.WaitUntilHeld();
        _faulty.Write(0, [1]);
        byte[] seen = new byte[1];
        _faulty.Read(512, seen);
        Assert.Equal(afterEffect ? 7 : 0, seen[0]);
        Assert.True(writer.IsAlive);
        held.Release();
        Eventually.Ends(writer);
        _faulty.Read(512, seen);
        Assert.Equal(7, seen[0]);
    }

    [Fact]
    public void The_order_of_requests_is_recorded()
    {
        OrderRecorder order = new(_faulty);
        order.WriteParts(10, [1], [2], [3]);
        order.Flush();
        order.Discard(512, 1024);
        order.Resize(4096);
        Assert.Equal(
            [
                new RecordedRequest(BlockOp.Write, 10, 3),
                new RecordedRequest(BlockOp.Flush, 0, 0),
                new RecordedRequest(BlockOp.Discard, 512, 1024),
                new RecordedRequest(BlockOp.Resize, 4096, 0),
            ],
            order.Requests);
        Assert.Equal(1, order.FlushCount);
    }

    private void Do(BlockOp op)
    {
        switch (op)
        {
            case BlockOp.Read:
                _faulty.Read(0, new byte[1]);
                break;
            case BlockOp.WriteZeroes:
                _faulty.WriteZeroes(0, 1, mayUnmap: false);
                break;
            case BlockOp.Discard:
                _faulty.Discard(0, 1);
                break;
            case BlockOp.Resize:
                _faulty.Resize(100);
                break;
            default:
                _faulty.Flush();
                break;
        }
    }
}
