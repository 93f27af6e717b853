// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Notifications that pages of the kernel's are out of date.</summary>
public sealed class InvalidationTests
{
    private static readonly TimeSpan Patience = Eventually.Patience;

    [Fact]
    public void A_notification_has_the_form_of_the_protocol()
    {
        using SessionFixture fixture = SessionFixture.Initialised(new MemoryFileSystem(1 << 20));
        fixture.Server.Invalidator.Invalidate(new FuseCachedNode(7), 4096, 8192);
        Assert.True(fixture.Server.Invalidator.WaitDelivered(Patience));
        byte[] message = Assert.Single(fixture.Kernel.Notifications);
        Assert.Equal(
            [.. Words(40u, 2u), .. Words(0UL, 7UL, 4096UL, 8192UL)],
            message);
        Assert.Equal((1, 0), (fixture.Server.Invalidator.Sent, fixture.Server.Invalidator.Refused));
    }

    [Fact]
    public void Ranges_that_wait_are_joined_and_callers_do_not_wait()
    {
        using SessionFixture fixture = SessionFixture.Initialised(new MemoryFileSystem(1 << 20));
        using ManualResetEventSlim gate = new();
        using ManualResetEventSlim isBlocked = new();
        fixture.Kernel.OnNotify = message =>
        {
            isBlocked.Set();
            gate.Wait(Patience);
            return message.Length;
        };
        FuseInvalidator invalidator = fixture.Server.Invalidator;
        FuseCachedNode first = new(2);
        FuseCachedNode second = new(3);
        invalidator.Invalidate(first, 0, 1);
        Assert.True(isBlocked.Wait(Patience));

        // The kernel is busy with the first; workers still answer.
        Assert.Equal(0, ManagedAllocation.Of(() =>
        {
            for (int i = 1; i <= 1000; i++)
            {
                invalidator.Invalidate(first, i * 100, 50);
                invalidator.Invalidate(second, 5000 - i, 10);
            }
        }));
        Assert.False(invalidator.WaitDelivered(TimeSpan.FromMilliseconds(20)));
        Assert.Equal(0, fixture.GetAttributes().Error);
        gate.Set();
        Assert.True(invalidator.WaitDelivered(Patience));
        Assert.Equal(
            [(2UL, 0L, 1L), (2, 100, 100_000 - 50), (3, 4000, 1009)],
            fixture.Kernel.Notifications.Select(static message => (
                MemoryMarshal.Read<ulong>(message.AsSpan(16)),
                MemoryMarshal.Read<long>(message.AsSpan(24)),
                MemoryMarshal.Read<long>(message.AsSpan(32)))));
    }

    /// <summary>Where several files change all the time, the queue is never empty.</summary>
    [Fact]
    public void What_is_delivered_counts_while_more_is_asked_for()
    {
        using SessionFixture fixture = SessionFixture.Initialised(new MemoryFileSystem(1 << 20));
        FuseInvalidator invalidator = fixture.Server.Invalidator;
        FuseCachedNode[] nodes = [new(2), new(3)];
        int sent = 0;
        long[] delivered = new long[100];
        fixture.Kernel.OnNotify = message =>
        {
            if (sent < delivered.Length)
            {
                delivered[sent] = invalidator.Delivered;
                invalidator.Invalidate(nodes[sent % 2], 0, 1);
                invalidator.Invalidate(nodes[(sent + 1) % 2], 0, 1);
            }

            sent++;
            return message.Length;
        };
        long first = invalidator.Invalidate(nodes[0], 0, 1);
        Eventually.Holds(() => Volatile.Read(ref sent) >= delivered.Length);
        Assert.True(delivered[1] >= first, $"{first} has been sent, {delivered[1]} counts as delivered");
        Assert.Equal(delivered.Order(), delivered);
        Assert.True(delivered[^1] > delivered[50]);
    }

    [Fact]
    public void What_is_asked_for_too_late_is_not_delivered()
    {
        using SessionFixture fixture = SessionFixture.Initialised(new MemoryFileSystem(1 << 20));
        FuseInvalidator invalidator = fixture.Server.Invalidator;
        FuseCachedNode node = new(2);
        long early = invalidator.Invalidate(node, 0, 1);
        Assert.True(invalidator.WaitDelivered(Patience));
        fixture.Server.Stop();
        long late = invalidator.Invalidate(node, 0, 1);
        Assert.True(late > early);
        Assert.False(invalidator.WaitDelivered(Patience));
        Assert.Equal(early, invalidator.Delivered);
    }

    /// <summary>The thread that ends the mount does not compete with workers for the right to wait.</summary>
    [Fact]
    public void Some_workers_may_wait_and_anybody_else()
    {
        using SessionFixture fixture = SessionFixture.Initialised(new MemoryFileSystem(1 << 20));
        using ManualResetEventSlim gate = new();
        fixture.Kernel.OnNotify = message =>
        {
            gate.Wait(Patience);
            return message.Length;
        };
        FuseInvalidator invalidator = fixture.Server.Invalidator;
        invalidator.Invalidate(new FuseCachedNode(2), 0, 1);
        TestThread[] workers =
            [.. Enumerable.Range(0, 4).Select(_ => TestThread.Start(() => invalidator.TryWaitDelivered(Patience)))];
        foreach (TestThread worker in workers)
            worker.ShouldWait("a worker does not wait");
        Assert.False(invalidator.TryWaitDelivered(Patience));
        bool isDelivered = false;
        TestThread other = TestThread.Start(() => isDelivered = invalidator.WaitDelivered(Patience));
        other.ShouldWait("nobody else waits");
        gate.Set();
        other.ShouldEnd();
        Assert.True(isDelivered);
        foreach (TestThread worker in workers)
            worker.ShouldEnd();
    }

    [Theory]
    [InlineData(-Errno.ENOENT, 1, 0)]
    [InlineData(-Errno.ENODEV, 1, 0)]
    [InlineData(-Errno.EINVAL, 0, 1)]
    public void What_the_kernel_refuses_is_counted_and_does_not_end_the_thread(int answer, int sent, int refused)
    {
        using SessionFixture fixture = SessionFixture.Initialised(new MemoryFileSystem(1 << 20));
        fixture.Kernel.OnNotify = _ => answer;
        FuseInvalidator invalidator = fixture.Server.Invalidator;
        invalidator.Invalidate(new FuseCachedNode(2), 0, long.MaxValue);
        Assert.True(invalidator.WaitDelivered(Patience));
        Assert.Equal((sent, refused), (invalidator.Sent, invalidator.Refused));
        invalidator.Invalidate(new FuseCachedNode(2), 0, 1);
        Assert.True(invalidator.WaitDelivered(Patience));

        // All behind an offset is length 0.
        Assert.Equal(0, MemoryMarshal.Read<long>(fixture.Kernel.Notifications.First().AsSpan(32)));
    }

    private static byte[] Words<T>(params T[] words)
        where T : unmanaged =>
        MemoryMarshal.AsBytes<T>(words).ToArray();
}
