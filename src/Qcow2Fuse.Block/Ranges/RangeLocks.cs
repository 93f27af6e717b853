// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Ranges;

/// <summary>
/// Serialises requests that overlap: a shared range waits for exclusive ranges it overlaps, an exclusive one for
/// all. Taking a range allocates nothing unless more ranges are held at once than ever before.
/// </summary>
/// <remarks>
/// Fair: nobody takes a range for which somebody else has been waiting who would have to wait on. Not reentrant: a
/// thread that holds a range must not take another.
/// </remarks>
public sealed class RangeLocks
{
    private readonly object _lock = new();
    private Range[] _held = new Range[16];
    private Range[] _waiting = new Range[16];
    private int _waitingCount;
    private long _tickets;

    /// <summary>Takes <paramref name="length"/> bytes from <paramref name="offset"/> on; dispose to release.</summary>
    public Holder Acquire(long offset, long length, bool exclusive)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        Range wanted = new(offset, checked(offset + length), exclusive);
        lock (_lock)
        {
            if (MustWait(wanted))
                WaitFor(wanted);
            return Hold(wanted);
        }
    }

    /// <summary>Takes a range if nobody has to be waited for.</summary>
    public bool TryAcquire(long offset, long length, bool exclusive, out Holder holder)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        Range wanted = new(offset, checked(offset + length), exclusive);
        lock (_lock)
        {
            bool isFree = !MustWait(wanted);
            holder = isFree ? Hold(wanted) : default;
            return isFree;
        }
    }

    private Holder Hold(in Range wanted)
    {
        int slot = FreeSlot(ref _held);
        _held[slot] = wanted;
        return new Holder(this, slot);
    }

    private void WaitFor(Range wanted)
    {
        wanted = wanted with { Ticket = ++_tickets };
        int place = FreeSlot(ref _waiting);
        _waiting[place] = wanted;
        _waitingCount++;
        try
        {
            while (MustWait(wanted))
                Monitor.Wait(_lock);
        }
        finally
        {
            _waiting[place] = default;
            _waitingCount--;

            // Who waited for this one to have its turn may share the range with it.
            if (_waitingCount > 0)
                Monitor.PulseAll(_lock);
        }
    }

    /// <summary>Whether a range is held that excludes this one, or was asked for before it by somebody who waits.
    /// </summary>
    private bool MustWait(in Range wanted)
    {
        foreach (ref readonly Range held in _held.AsSpan())
        {
            if (held.Excludes(wanted))
                return true;
        }

        if (_waitingCount == 0)
            return false;
        foreach (ref readonly Range other in _waiting.AsSpan())
        {
            if (other.Excludes(wanted) && (wanted.Ticket == 0 || other.Ticket < wanted.Ticket))
                return true;
        }

        return false;
    }

    private static int FreeSlot(ref Range[] ranges)
    {
        for (int slot = 0; slot < ranges.Length; slot++)
        {
            if (ranges[slot].End == 0)
                return slot;
        }

        int first = ranges.Length;
        Array.Resize(ref ranges, first * 2);
        return first;
    }

    private void Release(int slot)
    {
        lock (_lock)
        {
            _held[slot] = default;
            if (_waitingCount > 0)
                Monitor.PulseAll(_lock);
        }
    }

    /// <summary>A range that is held. Dispose it exactly once; the default holds none.</summary>
    public readonly record struct Holder : IDisposable
    {
        private readonly RangeLocks? _owner;
        private readonly int _slot;

        internal Holder(RangeLocks owner, int slot)
        {
            _owner = owner;
            _slot = slot;
        }

        /// <summary>Releases the range.</summary>
        public void Dispose() => _owner?.Release(_slot);
    }

    /// <summary>
    /// A range that is held or waited for; the ticket tells who waits longer. A free slot is one whose end is 0, which
    /// no range has.
    /// </summary>
    private readonly record struct Range(long Offset, long End, bool Exclusive, long Ticket = 0)
    {
        public bool Excludes(in Range other) =>
            End > other.Offset && Offset < other.End && (Exclusive || other.Exclusive);
    }
}
