// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block;

/// <summary>
/// Serialises requests that overlap: a shared range waits for exclusive ranges it overlaps, an exclusive one for
/// all. Taking a range allocates nothing unless more ranges are held at once than ever before.
/// </summary>
/// <remarks>Not fair, and not reentrant: a thread that holds a range must not take another.</remarks>
public sealed class RangeLocks
{
    private readonly object _lock = new();
    private Range[] _held = new Range[16];
    private int _waiting;

    /// <summary>Takes <paramref name="length"/> bytes from <paramref name="offset"/> on; dispose to release.</summary>
    public Holder Acquire(long offset, long length, bool exclusive)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        Range wanted = new(offset, checked(offset + length), exclusive);
        lock (_lock)
        {
            while (Conflicts(wanted))
            {
                _waiting++;
                Monitor.Wait(_lock);
                _waiting--;
            }

            int slot = FreeSlot();
            _held[slot] = wanted;
            return new Holder(this, slot);
        }
    }

    /// <summary>Takes a range if nobody has to be waited for.</summary>
    public bool TryAcquire(long offset, long length, bool exclusive, out Holder holder)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        Range wanted = new(offset, checked(offset + length), exclusive);
        lock (_lock)
        {
            if (Conflicts(wanted))
            {
                holder = default;
                return false;
            }

            int slot = FreeSlot();
            _held[slot] = wanted;
            holder = new Holder(this, slot);
            return true;
        }
    }

    private bool Conflicts(in Range wanted)
    {
        foreach (ref readonly Range held in _held.AsSpan())
        {
            bool overlaps = held.End > wanted.Offset && held.Offset < wanted.End;
            if (overlaps && (held.Exclusive || wanted.Exclusive))
                return true;
        }

        return false;
    }

    private int FreeSlot()
    {
        for (int slot = 0; slot < _held.Length; slot++)
        {
            if (_held[slot].End == 0)
                return slot;
        }

        int first = _held.Length;
        Array.Resize(ref _held, first * 2);
        return first;
    }

    private void Release(int slot)
    {
        lock (_lock)
        {
            _held[slot] = default;
            if (_waiting > 0)
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

    /// <summary>A free slot is one whose end is 0, which no held range has.</summary>
    private readonly record struct Range(long Offset, long End, bool Exclusive);
}
