// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Block.Tests;

/// <summary>What the daemon does by itself again and again.</summary>
public sealed class PeriodicWorkTests
{
    private static readonly TimeSpan Period = TimeSpan.FromMilliseconds(1);

    [Fact]
    public void Work_that_hangs_has_one_thread()
    {
        using ManualResetEventSlim ready = new();
        int begun = 0;
        int rounds = 0;
        void Hang()
        {
            Interlocked.Increment(ref begun);
            ready.Wait(Eventually.Patience);
        }

        using PeriodicWork hanging = new(Period, Hang, static _ => { });
        Eventually.Holds(() => Volatile.Read(ref begun) == 1);

        // Another of the same period tells that many have passed.
        using (PeriodicWork other = new(Period, () => Interlocked.Increment(ref rounds), static _ => { }))
            Eventually.Holds(() => Volatile.Read(ref rounds) > 20);
        Assert.Equal(1, Volatile.Read(ref begun));
        ready.Set();
        Eventually.Holds(() => Volatile.Read(ref begun) > 1);
    }

    [Fact]
    public void Work_that_fails_is_told_and_tried_again()
    {
        ConcurrentQueue<Exception> told = new();
        int rounds = 0;
        void Fail() => throw (Interlocked.Increment(ref rounds) % 2 == 0
            ? new InvalidOperationException("a bug") : new InsufficientMemoryException());
        using PeriodicWork failing = new(Period, Fail, told.Enqueue);
        Eventually.Holds(() => told.Count >= 2);
        Assert.Contains(told, static failure => failure is OutOfMemoryException);
        Assert.Contains(told, static failure => failure is InvalidOperationException);
    }

    [Fact]
    public void Whom_there_is_no_memory_to_tell_ends_nothing()
    {
        int rounds = 0;
        using PeriodicWork failing = new(
            Period,
            () =>
            {
                Interlocked.Increment(ref rounds);
                throw new InsufficientMemoryException();
            },
            static _ => throw new InsufficientMemoryException());
        Eventually.Holds(() => Volatile.Read(ref rounds) > 2);
    }

    [Fact]
    public void Its_end_waits_for_work_that_has_begun()
    {
        using ManualResetEventSlim begun = new();
        using ManualResetEventSlim ready = new();
        PeriodicWork work = new(
            Period,
            () =>
            {
                begun.Set();
                ready.Wait(Eventually.Patience);
            },
            static _ => { });
        Assert.True(begun.Wait(Eventually.Patience));
        TestThread end = TestThread.Start(work.Dispose);
        end.ShouldWait("it does not wait");
        ready.Set();
        end.ShouldEnd();
    }
}
