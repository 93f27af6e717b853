// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Block.Tests.Device;

/// <summary>The memory that images share.</summary>
public sealed class MemoryBudgetTests
{
    [Fact]
    public void What_is_beyond_the_budget_is_refused_with_a_sentence()
    {
        MemoryBudget budget = new(10 << 20);
        using MemoryCharge first = budget.Take(6 << 20, "a.qcow2", "its table");
        BlockException refused =
            Assert.Throws<BlockException>(() => budget.Take(5 << 20, "b.qcow2", "its table"));
        Assert.Equal(
            (BlockErrorKind.NoMemory,
                "b.qcow2: its table would take 5 MiB of memory, of 10 MiB for metadata 4 MiB are left",
                FailureCode.MetadataMemory),
            (refused.Kind, refused.Message, refused.Cause?.Code));
        Assert.Equal(6 << 20, budget.Taken);

        first.Grow(4 << 20, "a.qcow2", "its table");
        first.Shrink(1 << 20);
        using MemoryCharge second = budget.Take(9 << 20, "b.qcow2", "its table");
        second.Dispose();
        first.Dispose();
        first.Dispose();
        Assert.Equal(0, budget.Taken);
    }

    [Fact]
    public void No_number_of_bytes_gets_past_it()
    {
        MemoryBudget budget = new(100);
        using MemoryCharge charge = budget.Take(60, "a", "b");
        Assert.Throws<BlockException>(() => charge.Grow(long.MaxValue, "a", "b"));
        Assert.Throws<ArgumentOutOfRangeException>(() => charge.Grow(-1, "a", "b"));
        Assert.Equal(60, budget.Taken);
        using MemoryCharge all = MemoryBudget.Unlimited.Take(1L << 60, "a", "b");
    }

    [Fact]
    public void Who_asks_for_too_much_keeps_nothing_from_the_others()
    {
        const int Refusals = 50_000;
        MemoryBudget budget = new(1000);
        int refused = 0;
        TestThread greedy = TestThread.Start(() =>
        {
            using MemoryCharge charge = budget.Take(0, "greedy", "b");
            while (Volatile.Read(ref refused) < Refusals)
            {
                Assert.Throws<BlockException>(() => charge.Grow(1001, "greedy", "b"));
                Interlocked.Increment(ref refused);
            }
        });
        try
        {
            using MemoryCharge modest = budget.Take(0, "modest", "b");
            while (Volatile.Read(ref refused) < Refusals)
            {
                modest.Grow(1000, "modest", "b");
                modest.Shrink(0);
            }
        }
        finally
        {
            Volatile.Write(ref refused, Refusals);
            greedy.ShouldEnd();
        }
    }

    [Fact]
    public void What_is_owed_is_had_and_counts()
    {
        MemoryBudget budget = new(1000);
        using (MemoryCharge open = budget.Take(900, "a", "b"))
        {
            open.Owe(300);
            Assert.Equal((1200, 1200), (open.Taken, budget.Taken));
            BlockException refused = Assert.Throws<BlockException>(() => budget.Take(1, "c", "d"));
            Assert.Contains("0 MiB are left", refused.Message, StringComparison.Ordinal);
            Assert.Throws<ArgumentOutOfRangeException>(() => open.Owe(-1));
        }

        Assert.Equal(0, budget.Taken);
    }

    [Fact]
    public void Threads_never_have_more_together_than_there_is()
    {
        MemoryBudget budget = new(1000);
        int refused = 0;
        Parallel.For(0, 8, _ =>
        {
            for (int i = 0; i < 2000; i++)
            {
                try
                {
                    using MemoryCharge charge = budget.Take(300, "a", "b");
                    Assert.InRange(budget.Taken, 300, 1000);
                }
                catch (BlockException)
                {
                    Interlocked.Increment(ref refused);
                }
            }
        });
        Assert.Equal(0, budget.Taken);
        Assert.InRange(refused, 0, 8 * 2000);
    }
}
