// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Block.Live;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Block.Tests;

/// <summary>What lies below the root of an image is exchanged while it is used.</summary>
public sealed class LiveDeviceTests : ConcurrencyContract
{
    protected override BlockDevice Create(long length) => new LiveDevice(new MemoryDevice(length));

    [Fact]
    public void An_exchange_waits_for_requests_and_requests_for_it()
    {
        FaultyDevice slow = new(new MemoryDevice(Size));
        using LiveDevice live = new(slow);
        using HeldRequest held = slow.Hold(BlockOp.Write);
        TestThread writing = TestThread.Start(() => live.Write(0, [1]));
        held.WaitUntilHeld();
        MemoryDevice other = new(Size);
        using ManualResetEventSlim isExchanging = new();
        using ManualResetEventSlim mayEnd = new();
        TestThread exchanging = TestThread.Start(() => live.Exchange(before =>
        {
            Assert.Same(slow, before);
            isExchanging.Set();
            mayEnd.Wait();
            return other;
        }));
        exchanging.ShouldWait("it does not wait for the write");
        Assert.False(isExchanging.IsSet);
        Assert.False(live.TryBeginPlain(0, 512, isWrite: false, out _));

        TestThread reading = TestThread.Start(() => live.Read(0, new byte[1]));
        reading.ShouldWait("it does not wait for the exchange");
        held.Release();
        writing.ShouldEnd();
        Assert.True(isExchanging.Wait(Eventually.Patience));
        reading.ShouldNotHaveEnded("it has not waited for the end of the exchange");
        mayEnd.Set();
        exchanging.ShouldEnd();
        reading.ShouldEnd();
        Assert.Same(other, live.Child);
        Assert.Same(other, FilterDevice.Unwrap(live));
        slow.Dispose();
    }

    [Fact]
    public void An_exchange_waits_for_a_plain_run()
    {
        using LiveDevice live = new(new PlainDevice());
        Assert.True(live.TryBeginPlain(0, 512, isWrite: true, out PlainRun run));
        TestThread exchanging = TestThread.Start(() => live.Exchange(static before => before));
        exchanging.ShouldWait("it does not wait for the transfer");
        live.EndPlain(run);
        exchanging.ShouldEnd();
        Assert.True(live.TryBeginPlain(0, 512, isWrite: true, out run));
        live.EndPlain(run);
    }

    [Fact]
    public void An_exchange_that_fails_changes_nothing_and_lets_requests_in()
    {
        MemoryDevice top = new(Size);
        using LiveDevice live = new(top);
        Assert.Throws<BlockException>(() => live.Exchange(
            static _ => throw new BlockException(BlockErrorKind.Io, "no")));
        Assert.Same(top, live.Child);
        live.Write(0, [1]);
    }

    /// <summary>Every byte that is read is one that was written, whatever is exchanged meanwhile.</summary>
    [Fact]
    public void Requests_go_on_through_exchanges()
    {
        using LiveDevice live = new(new MemoryDevice(Size));
        bool isOver = false;
        TestThread[] users = [.. Enumerable.Range(0, 4).Select(number => TestThread.Start(() =>
        {
            byte[] mine = new byte[64];
            byte[] read = new byte[64];
            for (byte round = 1; !Volatile.Read(ref isOver); round = (byte)Math.Max(1, round + 1))
            {
                mine.AsSpan().Fill(round);
                live.Write(number * 4096, mine);
                live.Read(number * 4096, read);
                Assert.Equal(mine, read);
            }
        }))];
        for (int i = 0; i < 200; i++)
        {
            live.Exchange(static before => before is WriteThroughFilter filter
                ? filter.Child : new WriteThroughFilter(before));
        }

        Volatile.Write(ref isOver, true);
        foreach (TestThread user in users)
            user.ShouldEnd();
    }

    [Fact]
    public void Passing_the_door_allocates_nothing()
    {
        using LiveDevice live = new(new MemoryDevice(Size));
        byte[] buffer = new byte[512];
        Work();
        Assert.Equal(0, ManagedAllocation.Of(Work));

        void Work()
        {
            for (int i = 0; i < 1000; i++)
            {
                live.Write(0, buffer);
                live.Read(0, buffer);
            }
        }
    }

    private sealed class PlainDevice() : FilterDevice(new MemoryDevice(Size))
    {
        public override bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run)
        {
            run = new PlainRun { Descriptor = 0, Offset = offset };
            return true;
        }

        public override void EndPlain(in PlainRun run)
        {
        }
    }
}
