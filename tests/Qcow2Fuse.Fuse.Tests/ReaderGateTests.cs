// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Few workers wait for requests, and there is always one.</summary>
public sealed class ReaderGateTests
{
    private static readonly TimeSpan Patience = Eventually.Patience;
    private static readonly TimeSpan Glance = TimeSpan.FromMilliseconds(50);

    [Fact]
    public void SomebodyComesWhenNobodyIsLeft()
    {
        ReaderGate gate = new(least: 1, most: 2);
        Enter(gate, 2);
        Thread third = StartEntering(gate, isDeep: false);
        Thread fourth = StartEntering(gate, isDeep: false);
        gate.Leave();
        Assert.False(third.Join(Glance) || fourth.Join(Glance));
        gate.Leave();
        Eventually.Holds(() => third.IsAlive != fourth.IsAlive);
        Thread last = third.IsAlive ? third : fourth;
        Assert.False(last.Join(Glance));
        gate.Leave();
        Assert.True(last.Join(Patience));
    }

    [Fact]
    public void WhoIsBusyForLongCallsOthers()
    {
        ReaderGate gate = new(least: 2, most: 3);
        Enter(gate, 3);
        Thread fourth = StartEntering(gate, isDeep: false);
        gate.Leave();
        gate.CallOthers();
        Assert.False(fourth.Join(Glance));
        gate.Leave();
        Assert.False(fourth.Join(Glance));
        gate.CallOthers();
        Assert.True(fourth.Join(Patience));
    }

    [Fact]
    public void OneMoreThanTheLeastAreEnoughWhereItIsDeep()
    {
        ReaderGate gate = new(least: 1, most: 4);
        gate.Enter(isDeep: true);
        gate.Enter(isDeep: true);
        Thread third = StartEntering(gate, isDeep: true);
        Enter(gate, 1);
        gate.Leave();
        gate.Leave();
        Assert.False(third.Join(Glance));
        gate.Leave();
        Assert.True(third.Join(Patience));
    }

    [Fact]
    public void WhoComesWhileThereIsRoomDoesNotWait()
    {
        ReaderGate gate = new(least: 2, most: 2);
        for (int i = 0; i < 1000; i++)
        {
            Enter(gate, 2);
            gate.Leave();
            gate.CallOthers();
            gate.Leave();
            gate.CallOthers();
        }
    }

    [Fact]
    public void OpenItHoldsNobody()
    {
        ReaderGate gate = new(least: 1, most: 1);
        Enter(gate, 1);
        Thread waiting = StartEntering(gate, isDeep: false);
        gate.Open();
        Assert.True(waiting.Join(Patience));
        gate.Enter(isDeep: true);
    }

    private static void Enter(ReaderGate gate, int workers)
    {
        for (int i = 0; i < workers; i++)
            gate.Enter(isDeep: false);
    }

    private static Thread StartEntering(ReaderGate gate, bool isDeep)
    {
        Thread thread = new(() => gate.Enter(isDeep)) { IsBackground = true };
        thread.Start();
        Eventually.Holds(() => thread.ThreadState.HasFlag(ThreadState.WaitSleepJoin));
        return thread;
    }
}
