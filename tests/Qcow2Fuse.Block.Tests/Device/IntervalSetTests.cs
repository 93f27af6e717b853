// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Ranges;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Block.Tests.Device;

public sealed class IntervalSetTests
{
    [Fact]
    public void It_holds_what_a_plain_array_holds()
    {
        const int Numbers = 300;
        for (ulong seed = 0; seed < 30; seed++)
        {
            SeededRandom random = new(seed);
            using IntervalSet set = new();
            byte[] model = new byte[Numbers];
            for (int step = 0; step < 400; step++)
            {
                int start = random.Below(Numbers - 1);
                int end = start + 1 + random.Below(Math.Min(12, Numbers - start - 1) + 1);
                end = Math.Min(end, Numbers);
                bool isFree = model.AsSpan(start..end).IndexOfAnyExcept((byte)0) < 0;
                Assert.Equal(!isFree, set.TryFind(start, end, out Interval found));
                if (!isFree)
                    Assert.Equal(found.Tag, model[Math.Max(found.Start, start)]);
                if (random.Chance(40))
                {
                    set.Remove(start, end);
                    model.AsSpan(start..end).Clear();
                }
                else if (isFree)
                {
                    byte tag = (byte)(1 + random.Below(3));
                    set.Add(start, end, tag);
                    model.AsSpan(start..end).Fill(tag);
                }
                else
                {
                    Assert.Throws<InvalidOperationException>(() => set.Add(start, end, 1));
                }

                Assert.Equal(model, Drawn(set, Numbers));
            }
        }
    }

    [Fact]
    public void Neighbours_of_one_tag_are_one_run()
    {
        using IntervalSet set = new();
        set.Add(10, 20, 1);
        set.Add(30, 40, 1);
        set.Add(20, 30, 1);
        set.Add(40, 50, 2);
        Assert.Equal([new Interval(10, 40, 1), new Interval(40, 50, 2)], set.Runs.ToArray());
        set.Remove(15, 45);
        Assert.Equal([new Interval(10, 15, 1), new Interval(45, 50, 2)], set.Runs.ToArray());
    }

    [Fact]
    public void What_is_appended_in_any_order_is_what_was_added()
    {
        const int Numbers = 1000;
        for (ulong seed = 0; seed < 30; seed++)
        {
            SeededRandom random = new(seed);
            using IntervalSet set = new();
            byte[] model = new byte[Numbers];
            set.BeginAppending(random.Below(40));
            for (int step = 0; step < 600; step++)
            {
                int start = random.Below(Numbers);
                byte tag = (byte)(1 + (start / 10 % 3));
                set.Append(start, start + 1, tag, static (first, second) => first.Tag == second.Tag);
                model[start] = tag;
            }

            set.EndAppending(static (first, second) => first.Tag == second.Tag);
            Assert.Equal(model, Drawn(set, Numbers));

            // Those that are named again take no room.
            Assert.InRange(set.Bytes, 1, Math.Max(40, set.Count * 4) * IntervalSet.BytesPerRun);
        }
    }

    [Fact]
    public void What_is_appended_and_may_not_overlap_is_refused()
    {
        using IntervalSet set = new();
        set.BeginAppending(4);
        set.Append(5, 9, 2, Never);
        set.Append(1, 6, 1, Never);
        Assert.Throws<InvalidOperationException>(() => set.EndAppending(Never));
        set.Dispose();
        Assert.Equal((0, 0L), (set.Count, set.Bytes));
        set.Add(3, 4, 1);
        Assert.True(set.TryFind(0, 10, out _));

        static bool Never(Interval first, Interval second)
        {
            Assert.Equal((1, 5), (first.Start, second.Start));
            return false;
        }
    }

    private static byte[] Drawn(IntervalSet set, int numbers)
    {
        byte[] drawn = new byte[numbers];
        long last = 0;
        foreach (Interval run in set.Runs)
        {
            Assert.True(run.Start >= last && run.End > run.Start);
            drawn.AsSpan((int)run.Start..(int)run.End).Fill(run.Tag);
            last = run.End;
        }

        return drawn;
    }
}
