// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Block.Ranges;

/// <summary>A run of numbers with a tag that says what it is; 16 bytes.</summary>
public readonly record struct Interval
{
    private const int TagBits = 8;

    private readonly long _endAndTag;

    /// <param name="start">First number.</param>
    /// <param name="end">The one after the last, below 2^55.</param>
    /// <param name="tag">The owner's meaning.</param>
    public Interval(long start, long end, byte tag)
    {
        Start = start;
        _endAndTag = (end << TagBits) | tag;
    }

    /// <summary>First number.</summary>
    public long Start { get; init; }

    /// <summary>The one after the last.</summary>
    public long End
    {
        get => _endAndTag >> TagBits;
        init => _endAndTag = (value << TagBits) | Tag;
    }

    /// <summary>The owner's meaning.</summary>
    public byte Tag => (byte)_endAndTag;
}

/// <summary>
/// Disjoint runs of numbers in a sorted array of native memory: a question costs a binary search. Neighbours of one tag
/// are joined, so what was allocated in one go is one run. Not synchronised.
/// </summary>
public sealed unsafe class IntervalSet : IDisposable
{
    private const int CapacityMin = 16;

    private Interval* _runs;
    private int _capacity;

    /// <summary>Bytes that a run takes.</summary>
    public static int BytesPerRun => sizeof(Interval);

    /// <summary>How many runs there are.</summary>
    public int Count { get; private set; }

    /// <summary>Bytes of memory the set has now.</summary>
    public long Bytes => (long)_capacity * sizeof(Interval);

    /// <summary>The runs in ascending order; valid until the set is changed.</summary>
    public ReadOnlySpan<Interval> Runs => new(_runs, Count);

    /// <summary>
    /// Starts anew with runs that <see cref="Append"/> adds in any order; until <see cref="EndAppending"/> nothing else
    /// may be called.
    /// </summary>
    /// <param name="capacity">Runs there is to be room for.</param>
    public void BeginAppending(int capacity)
    {
        Dispose();
        SetCapacity(Math.Max(capacity, CapacityMin));
    }

    /// <summary>Adds a run in any order.</summary>
    /// <param name="start">First number.</param>
    /// <param name="end">The one after the last.</param>
    /// <param name="tag">The owner's meaning.</param>
    /// <param name="mayShare">As for <see cref="EndAppending"/>, which is done before the set takes more memory.
    /// </param>
    public void Append(long start, long end, byte tag, Func<Interval, Interval, bool> mayShare)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(start, end);
        if (Count == _capacity)
        {
            EndAppending(mayShare);
            if (Count > _capacity / 4 * 3)
                SetCapacity(checked(_capacity * 2));
        }

        _runs[Count++] = new Interval(start, end, tag);
    }

    /// <summary>Sorts what was appended and joins it.</summary>
    /// <param name="mayShare">
    /// Asked about two runs that overlap: true makes one run of them, with the tag of the first. The one that begins
    /// first comes first, and of those that begin together the one with the lower tag.
    /// </param>
    /// <exception cref="InvalidOperationException">Two runs overlap, and may not.</exception>
    public void EndAppending(Func<Interval, Interval, bool> mayShare)
    {
        var runs = new Span<Interval>(_runs, Count);
        runs.Sort(static (left, right) =>
            left.Start != right.Start ? left.Start.CompareTo(right.Start) : left.Tag.CompareTo(right.Tag));
        int last = -1;
        foreach (Interval run in runs)
        {
            bool overlaps = last >= 0 && run.Start < runs[last].End;
            if (overlaps && !mayShare(runs[last], run))
                throw new InvalidOperationException("Two runs overlap.");
            if (overlaps || (last >= 0 && run.Start == runs[last].End && run.Tag == runs[last].Tag))
                runs[last] = runs[last] with { End = Math.Max(runs[last].End, run.End) };
            else
                runs[++last] = run;
        }

        Count = last + 1;
    }

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

    /// <summary>Forgets everything and gives its memory back; it may be used again.</summary>
    public void Dispose()
    {
        NativeMemory.Free(_runs);
        _runs = null;
        _capacity = 0;
        Count = 0;
    }

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
        if (Count == _capacity)
            SetCapacity(Math.Max(CapacityMin, checked(Count * 2)));
        var runs = new Span<Interval>(_runs, Count + 1);
        runs[index..Count].CopyTo(runs[(index + 1)..]);
        runs[index] = run;
        Count++;
    }

    private void RemoveAt(int index)
    {
        var runs = new Span<Interval>(_runs, Count);
        runs[(index + 1)..].CopyTo(runs[index..]);
        Count--;
    }

    private void SetCapacity(int capacity)
    {
        _runs = (Interval*)NativeMemory.Realloc(_runs, (nuint)capacity * (nuint)sizeof(Interval));
        _capacity = capacity;
    }
}
