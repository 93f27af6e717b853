// SPDX-License-Identifier: MIT
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Few workers wait for requests, and there is always one.</summary>
public sealed class ReaderGateTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);
    private static readonly TimeSpan Glance = TimeSpan.FromMilliseconds(50);

    [Fact]
    public void OthersAreCalledWhenTooFewAreLeft()
    {
        ReaderGate gate = new(least: 1, most: 2);
        gate.Enter();
        gate.Enter();
        Thread third = StartWaiting(gate.Enter);
        Thread fourth = StartWaiting(gate.Enter);
        gate.Leave();
        Assert.False(third.Join(Glance) || fourth.Join(Glance));
        gate.Leave();
        Assert.True(SpinWait.SpinUntil(() => third.IsAlive != fourth.IsAlive, Patience));
        Thread last = third.IsAlive ? third : fourth;
        Assert.False(last.Join(Glance));
        gate.Leave();
        Assert.True(last.Join(Patience));
    }

    [Fact]
    public void WhoComesWhileThereIsRoomDoesNotWait()
    {
        ReaderGate gate = new(least: 2, most: 2);
        for (int i = 0; i < 1000; i++)
        {
            gate.Enter();
            gate.Enter();
            gate.Yield();
            gate.Leave();
            gate.Leave();
        }
    }

    [Fact]
    public void WhoIsNotNeededWaitsOutside()
    {
        ReaderGate gate = new(least: 1, most: 4);
        gate.Enter();
        gate.Yield();
        Thread second = StartWaiting(() =>
        {
            gate.Enter();
            gate.Yield();
        });
        Assert.False(second.Join(Glance));
        gate.Leave();
        Assert.True(second.Join(Patience));
    }

    [Fact]
    public void OpenItHoldsNobody()
    {
        ReaderGate gate = new(least: 1, most: 1);
        gate.Enter();
        Thread waiting = StartWaiting(gate.Enter);
        gate.Open();
        Assert.True(waiting.Join(Patience));
        gate.Enter();
        gate.Yield();
    }

    private static Thread StartWaiting(ThreadStart work)
    {
        Thread thread = new(work) { IsBackground = true };
        thread.Start();
        Assert.True(SpinWait.SpinUntil(() => thread.ThreadState.HasFlag(ThreadState.WaitSleepJoin), Patience));
        return thread;
    }
}
