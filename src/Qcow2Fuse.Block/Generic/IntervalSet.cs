// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block;

/// <summary>A run of numbers with a tag that says what it is.</summary>
/// <param name="Start">First number.</param>
/// <param name="End">The one after the last.</param>
/// <param name="Tag">The owner's meaning.</param>
public readonly record struct Interval(long Start, long End, byte Tag);

/// <summary>
/// Disjoint runs of numbers in sorted arrays: a question costs a binary search. Neighbours of one tag are joined, so
/// what was allocated in one go is one run. Not synchronised.
/// </summary>
public sealed class IntervalSet
{
    private Interval[] _runs = new Interval[16];

    /// <summary>How many runs there are.</summary>
    public int Count { get; private set; }

    /// <summary>The runs in ascending order.</summary>
    public ReadOnlySpan<Interval> Runs => _runs.AsSpan(0, Count);

    /// <summary>Finds the first run that shares a number with [start, end).</summary>
    public bool TryFind(long start, long end, out Interval found)
    {
        int index = FirstEndingAfter(start);
        bool overlaps = index < Count && _runs[index].Start < end;
        found = overlaps ? _runs[index] : default;
        return overlaps;
    }

    /// <summary>Adds a run that shares nothing with those here.</summary>
    /// <exception cref="InvalidOperationException">It overlaps one.</exception>
    public void Add(long start, long end, byte tag)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(start, end);
        int index = FirstEndingAfter(start);
        if (index < Count && _runs[index].Start < end)
            throw new InvalidOperationException("The run overlaps one that is here already.");
        bool joinsBefore = index > 0 && _runs[index - 1].End == start && _runs[index - 1].Tag == tag;
        bool joinsAfter = index < Count && _runs[index].Start == end && _runs[index].Tag == tag;
        if (joinsBefore && joinsAfter)
        {
            _runs[index - 1] = _runs[index - 1] with { End = _runs[index].End };
            RemoveAt(index);
        }
        else if (joinsBefore)
        {
            _runs[index - 1] = _runs[index - 1] with { End = end };
        }
        else if (joinsAfter)
        {
            _runs[index] = _runs[index] with { Start = start };
        }
        else
        {
            InsertAt(index, new Interval(start, end, tag));
        }
    }

    /// <summary>Removes [start, end) from all runs; parts that are in none are passed over.</summary>
    public void Remove(long start, long end)
    {
        while (TryFind(start, end, out Interval run))
        {
            int index = FirstEndingAfter(start);
            RemoveAt(index);
            if (run.End > end)
                InsertAt(index, run with { Start = end });
            if (run.Start < start)
                InsertAt(index, run with { End = start });
        }
    }

    /// <summary>Forgets everything.</summary>
    public void Clear() => Count = 0;

    /// <summary>Index of the first run that ends after <paramref name="position"/>.</summary>
    private int FirstEndingAfter(long position)
    {
        int low = 0;
        int high = Count;
        while (low < high)
        {
            int middle = (int)((uint)(low + high) >> 1);
            if (_runs[middle].End > position)
                high = middle;
            else
                low = middle + 1;
        }

        return low;
    }

    private void InsertAt(int index, Interval run)
    {
        if (Count == _runs.Length)
            Array.Resize(ref _runs, Count * 2);
        Array.Copy(_runs, index, _runs, index + 1, Count - index);
        _runs[index] = run;
        Count++;
    }

    private void RemoveAt(int index)
    {
        Count--;
        Array.Copy(_runs, index + 1, _runs, index, Count - index);
    }
}
