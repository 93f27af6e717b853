// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Ranges;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Block.Tests.Generic;

/// <summary>Ranges of bytes that exclude each other, in turn.</summary>
public sealed class RangeLocksTests
{
    [Fact]
    public void Who_waits_is_not_overtaken()
    {
        RangeLocks locks = new();
        RangeLocks.Holder reader = locks.Acquire(0, 100, exclusive: false);
        TestThread writer = TestThread.Start(() => locks.Acquire(50, 100, exclusive: true).Dispose());
        writer.ShouldWait("two hold what one has alone");

        // The range is held by readers only, and yet it is the writer's turn.
        Assert.False(locks.TryAcquire(90, 10, exclusive: false, out _));
        Assert.False(locks.TryAcquire(120, 10, exclusive: false, out _));
        TestThread second = TestThread.Start(() => locks.Acquire(90, 10, exclusive: false).Dispose());
        second.ShouldWait("a reader overtakes the writer who waits");

        // Whom he does not want to exclude he keeps from nothing.
        Assert.True(locks.TryAcquire(0, 50, exclusive: false, out RangeLocks.Holder other));
        other.Dispose();
        locks.Acquire(150, 10, exclusive: true).Dispose();

        reader.Dispose();
        writer.ShouldEnd();
        second.ShouldEnd();
        Assert.True(locks.TryAcquire(0, 200, exclusive: true, out RangeLocks.Holder all));
        all.Dispose();
    }

    [Fact]
    public void Readers_behind_a_writer_go_on_together()
    {
        RangeLocks locks = new();
        RangeLocks.Holder first = locks.Acquire(0, 10, exclusive: true);
        TestThread writer = TestThread.Start(() => locks.Acquire(0, 10, exclusive: true).Dispose());
        writer.ShouldWait("two hold what one has alone");
        using Barrier together = new(2);
        TestThread[] readers = new TestThread[2];
        for (int i = 0; i < readers.Length; i++)
        {
            readers[i] = TestThread.Start(() =>
            {
                using RangeLocks.Holder held = locks.Acquire(5, 10, exclusive: false);
                Assert.True(together.SignalAndWait(Eventually.Patience), "the other reader does not come");
            });
            readers[i].ShouldWait("a reader overtakes the writer who waits");
        }

        first.Dispose();
        writer.ShouldEnd();
        foreach (TestThread reader in readers)
            reader.ShouldEnd();
    }

    [Fact]
    public void Nobody_who_excludes_another_holds_a_range_beside_him()
    {
        const int Bytes = 64;
        RangeLocks locks = new();
        int[] readers = new int[Bytes];
        int[] writers = new int[Bytes];
        Parallel.For(0, 6, number =>
        {
            SeededRandom random = new((ulong)number + 1);
            for (int i = 0; i < 5000; i++)
            {
                int start = random.Below(Bytes - 8);
                int end = start + 1 + random.Below(8);
                bool isExclusive = random.Chance(40);
                using RangeLocks.Holder held = locks.Acquire(start, end - start, isExclusive);
                for (int at = start; at < end; at++)
                {
                    int others = isExclusive
                        ? Interlocked.Increment(ref writers[at]) - 1 + Volatile.Read(ref readers[at])
                        : Volatile.Read(ref writers[at]);
                    if (!isExclusive)
                        Interlocked.Increment(ref readers[at]);
                    Assert.Equal(0, others);
                }

                for (int at = start; at < end; at++)
                    Interlocked.Decrement(ref (isExclusive ? writers : readers)[at]);
            }
        });
    }
}
