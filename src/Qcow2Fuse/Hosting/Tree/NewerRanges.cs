// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting;

/// <summary>
/// The ranges of a disk that were changed through another of its files while the kernel may hold older pages of this
/// one. What the kernel writes out of such a page is kept away from them, until it has dropped the page.
/// </summary>
/// <remarks>All members but <see cref="Any"/> are called with <see cref="SharedWrites"/> entered.</remarks>
internal sealed class NewerRanges
{
    private const int CountMax = 1024;

    private readonly (long Start, long End, long Ticket)[] _ranges = new (long, long, long)[CountMax];
    private int _count;

    /// <summary>Whether there are any.</summary>
    public bool Any => Volatile.Read(ref _count) > 0;

    /// <summary>Whether there is place for one more.</summary>
    public bool HasRoom => _count < CountMax;

    /// <summary>
    /// Adds a range, where there is room. None is joined with another, which would keep it for longer than the kernel
    /// has its page.
    /// </summary>
    /// <param name="start">Where it begins.</param>
    /// <param name="end">Where it ends.</param>
    /// <param name="ticket">The notification with which the kernel is asked to drop its pages.</param>
    public void Add(long start, long end, long ticket)
    {
        _ranges[_count] = (start, end, ticket);
        Volatile.Write(ref _count, _count + 1);
    }

    /// <summary>Forgets all ranges whose notification the kernel has taken.</summary>
    public void Forget(long delivered)
    {
        int kept = 0;
        for (int i = 0; i < _count; i++)
        {
            if (_ranges[i].Ticket > delivered)
                _ranges[kept++] = _ranges[i];
        }

        Volatile.Write(ref _count, kept);
    }

    /// <summary>
    /// The first run of bytes from <paramref name="at"/> on that lies in none of the ranges; empty, at
    /// <paramref name="end"/>, where there is none before that.
    /// </summary>
    public (long Start, long End) Outside(long at, long end)
    {
        while (at < end && EndOfRangeAt(at) is var covered && covered > at)
            at = covered;
        if (at >= end)
            return (end, end);
        long next = end;
        for (int i = 0; i < _count; i++)
        {
            if (_ranges[i].Start > at)
                next = Math.Min(next, _ranges[i].Start);
        }

        return (at, next);
    }

    private long EndOfRangeAt(long at)
    {
        for (int i = 0; i < _count; i++)
        {
            if (_ranges[i].Start <= at && at < _ranges[i].End)
                return _ranges[i].End;
        }

        return at;
    }
}
