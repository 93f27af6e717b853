// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Block.Tests;

public sealed class SharedFlushTests
{
    [Fact]
    public void After_a_failure_no_flush_succeeds_any_more_and_none_is_tried()
    {
        int calls = 0;
        int result = 0;
        SharedFlush flush = new(() =>
        {
            calls++;
            return result;
        });
        Assert.Equal(0, flush.Run());
        result = -Errno.EIO;
        Assert.Equal(Errno.EIO, flush.Run());
        result = 0;
        Assert.Equal(Errno.EIO, flush.Run());
        Assert.Equal(Errno.EIO, flush.Failure);
        Assert.Equal(2, calls);
    }

    [Fact]
    public void Those_who_ask_while_one_runs_share_the_next_one()
    {
        using ManualResetEventSlim mayEnd = new();
        int calls = 0;
        SharedFlush flush = new(() =>
        {
            if (Interlocked.Increment(ref calls) == 1)
                mayEnd.Wait();
            return 0;
        });
        Thread[] all = Start(flush, 8, out int[] results);
        Eventually.Holds(() => all.Count(t => t.ThreadState == ThreadState.WaitSleepJoin) == 8);
        Assert.Equal(1, Volatile.Read(ref calls));
        mayEnd.Set();
        JoinAll(all);
        Assert.Equal(2, calls);
        Assert.All(results, result => Assert.Equal(0, result));
    }

    [Fact]
    public void Those_who_wait_for_a_failing_one_fail_too()
    {
        using ManualResetEventSlim mayEnd = new();
        SharedFlush flush = new(() =>
        {
            mayEnd.Wait();
            return -Errno.ENOSPC;
        });
        Thread[] all = Start(flush, 8, out int[] results);
        Eventually.Holds(() => all.Count(t => t.ThreadState == ThreadState.WaitSleepJoin) == 8);
        mayEnd.Set();
        JoinAll(all);
        Assert.All(results, result => Assert.Equal(Errno.ENOSPC, result));
    }

    private static Thread[] Start(SharedFlush flush, int count, out int[] results)
    {
        int[] slots = new int[count];
        Array.Fill(slots, -1);
        Thread[] threads = [.. Enumerable.Range(0, count).Select(i => new Thread(() => slots[i] = flush.Run()))];
        foreach (Thread thread in threads)
            thread.Start();
        results = slots;
        return threads;
    }

    private static void JoinAll(Thread[] threads)
    {
        foreach (Thread thread in threads)
            Eventually.Ends(thread);
    }
}
