// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Sweep;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Faults;

/// <summary>The judge of the fault sweep condemns what is wrong.</summary>
public sealed class SweepDiskTests
{
    private const int Size = 4096;

    private readonly SweepDisk _judge = new(new byte[Size]);
    private readonly MemoryDevice _device = new(Size);

    [Fact]
    public void A_failed_write_may_have_changed_its_own_bytes_only()
    {
        byte[] ones = Filled(1);
        _device.Write(0, ones.AsSpan(0, 50));
        Assert.Null(_judge.Changed(_device, 0, ones, mayBeOld: true));
        Assert.Null(_judge.Compare(_device));
        _device.Write(200, [2]);
        Assert.NotNull(_judge.Compare(_device));
        _device.Write(20, [3]);
        Assert.NotNull(_judge.Changed(_device, 0, ones, mayBeOld: true));
    }

    [Fact]
    public void What_was_flushed_must_be_there_after_opening_again()
    {
        _device.Write(0, Filled(1));
        _judge.Changed(_device, 0, Filled(1), mayBeOld: false);
        _judge.Flushed();
        _device.Write(0, Filled(2));
        _judge.Changed(_device, 0, Filled(2), mayBeOld: false);
        Assert.Null(_judge.Reopened(_device, mustBeLive: true));

        _device.Write(0, Filled(1));
        Assert.NotNull(_judge.Reopened(_device, mustBeLive: true));
        Assert.Null(_judge.Reopened(_device, mustBeLive: false));
        _device.Write(0, Filled(0));
        Assert.NotNull(_judge.Reopened(_device, mustBeLive: false));
        _device.Resize(Size * 2);
        Assert.NotNull(_judge.Reopened(_device, mustBeLive: false));
    }

    [Fact]
    public void A_short_request_does_half_of_its_work_and_fails()
    {
        FaultyDevice faulty = new(_device);
        faulty.Fail(new FaultRule { Op = BlockOp.Write, IsShort = true, TornAlignment = 512 });
        Assert.Throws<BlockException>(() => faulty.Write(512, new byte[3000].Select(_ => (byte)7).ToArray()));
        byte[] seen = new byte[Size];
        _device.Read(0, seen);
        Assert.Equal(1024, seen.Count(value => value == 7));
        faulty.Fail(new FaultRule { Op = BlockOp.Read, IsShort = true });
        byte[] read = new byte[1000];
        Assert.Throws<BlockException>(() => faulty.Read(512, read));
        Assert.Equal(500, read.Count(value => value == 7));
    }

    private static byte[] Filled(byte value) => [.. Enumerable.Repeat(value, 100)];
}
