// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Compression;

/// <summary>
/// Which bytes of a cluster were written: a few ranges, in order, that neither overlap nor touch. Holds up to
/// <see cref="Capacity"/> of them and allocates nothing.
/// </summary>
internal sealed class ByteRanges
{
    /// <summary>Ranges that fit.</summary>
    public const int Capacity = 64;

    private readonly int[] _starts = new int[Capacity];
    private readonly int[] _ends = new int[Capacity];

    /// <summary>How many ranges there are.</summary>
    public int Count { get; private set; }

    /// <summary>Range <paramref name="index"/>: its first byte and the byte after its last.</summary>
    public (int Start, int End) this[int index] => (_starts[index], _ends[index]);

    /// <summary>Adds a range and joins it with those it touches; false where it would be one too many.</summary>
    public bool TryAdd(int start, int end)
    {
        int first = 0;
        while (first < Count && _ends[first] < start)
            first++;
        int after = first;
        while (after < Count && _starts[after] <= end)
            after++;
        if (after == first && Count == Capacity)
            return false;
        if (after > first)
        {
            start = Math.Min(start, _starts[first]);
            end = Math.Max(end, _ends[after - 1]);
        }

        Move(after, first + 1);
        _starts[first] = start;
        _ends[first] = end;
        return true;
    }

    /// <summary>Whether all bytes of a range are in it.</summary>
    public bool Covers(int start, int end)
    {
        for (int i = 0; i < Count; i++)
        {
            if (_starts[i] <= start && _ends[i] >= end)
                return true;
        }

        return false;
    }

    /// <summary>Forgets all.</summary>
    public void Clear() => Count = 0;

    private void Move(int from, int to)
    {
        int moved = Count - from;
        Array.Copy(_starts, from, _starts, to, moved);
        Array.Copy(_ends, from, _ends, to, moved);
        Count = to + moved;
    }
}
