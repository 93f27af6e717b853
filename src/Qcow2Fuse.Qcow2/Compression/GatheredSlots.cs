// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Compression;

/// <summary>
/// Clusters that are gathered from writes of any size and order, until they are stored: who gets a slot, and what
/// becomes of it. Asks the image for nothing.
/// </summary>
/// <remarks>
/// <para>
/// A cluster under way lies in a <see cref="GatheredSlot"/>: open to more writes, or being stored, when readers still
/// see it and writers to it wait. A thread that zeroes or discards claims the range: writers to it wait, and the slots
/// in it are dropped once it has succeeded. So at most one thread at a time changes a cluster of the image.
/// </para>
/// <para>
/// The lock is a monitor, on which whoever has to wait for a slot waits.
/// </para>
/// </remarks>
internal sealed unsafe class GatheredSlots : IDisposable
{
    private const int SlotBytes = 8 << 20;
    private const int SlotsMin = 24;
    private const int SlotsMax = 64;

    private readonly Qcow2Geometry _geometry;
    private readonly DiskSize _size;
    private readonly GatheredSlot[] _slots;
    private readonly List<SlotClaim> _claims = new(8);
    private readonly byte* _arena;
    private long _clock;
    private int _used;
    private bool _isPaused;

    public GatheredSlots(Qcow2Geometry geometry, DiskSize size)
    {
        _geometry = geometry;
        _size = size;
        _slots = new GatheredSlot[Math.Clamp(SlotBytes >> geometry.ClusterBits, SlotsMin, SlotsMax)];

        // The system gives memory to pages only once they are touched.
        _arena = (byte*)NativeMemory.AlignedAlloc((nuint)_slots.Length << geometry.ClusterBits, 4096);
        for (int i = 0; i < _slots.Length; i++)
            _slots[i] = new GatheredSlot(_arena + ((long)i << geometry.ClusterBits), geometry.ClusterSize);
    }

    /// <summary>The monitor that guards the slots, and the queue of those who store them.</summary>
    public object Lock { get; } = new();

    /// <summary>All there are, used or not.</summary>
    public ReadOnlySpan<GatheredSlot> All => _slots;

    /// <summary>Whether anything is gathered that is not stored.</summary>
    public bool HoldsAny => Volatile.Read(ref _used) > 0;

    /// <summary>What the clock says, and whether more than one slot is used.</summary>
    public long Now(out bool isMany)
    {
        lock (Lock)
        {
            isMany = _used > 1;
            return _clock;
        }
    }

    /// <summary>
    /// Puts a part of a cluster into its slot. Where it completes the cluster, <paramref name="busy"/> is that slot,
    /// busy, for the caller to store it.
    /// </summary>
    /// <returns>False where the caller has to store <paramref name="busy"/> first, as far as it goes.</returns>
    public bool TryPut(long cluster, int within, ReadOnlySpan<byte> part, out GatheredSlot? busy)
    {
        lock (Lock)
        {
            while (true)
            {
                busy = null;

                // The disk may have been cut while this waited; then the write was before that.
                if (cluster + within >= _size.Length)
                    return true;
                if (!TryOpen(cluster, out GatheredSlot? slot))
                {
                    Monitor.Wait(Lock);
                    continue;
                }

                if (slot is not null && slot.Written.TryAdd(within, within + part.Length))
                {
                    part.CopyTo(slot.Content[within..]);
                    slot.LastUse = ++_clock;
                    if (IsWhole(slot))
                        busy = MakeBusy(slot);
                    return true;
                }

                // Too many pieces of this cluster, or too many clusters: one is stored as far as it goes.
                if ((slot ?? OldestOpen()) is { } stored)
                {
                    busy = MakeBusy(stored);
                    return false;
                }

                Monitor.Wait(Lock);
            }
        }
    }

    /// <summary>
    /// Copies what is gathered of a range, up to the end of the first slot in it.
    /// </summary>
    /// <param name="offset">Where it begins.</param>
    /// <param name="destination">As long as the range.</param>
    /// <param name="missing">Receives the parts of what was copied that the slot does not hold; room for one more than
    /// <see cref="ByteRanges.Capacity"/>.</param>
    /// <param name="gaps">How many these are.</param>
    /// <param name="step">The bytes of the slot, or those before the first slot.</param>
    /// <returns>False where the range does not begin in a slot: the image has to answer for the step.</returns>
    public bool TryCopyFirst(
        long offset, Span<byte> destination, Span<(int Start, int End)> missing, out int gaps, out int step)
    {
        gaps = 0;
        step = destination.Length;
        lock (Lock)
        {
            GatheredSlot? slot = FirstIn(offset, offset + destination.Length);
            if (slot is null)
                return false;
            if (slot.Guest > offset)
            {
                step = (int)(slot.Guest - offset);
                return false;
            }

            int within = (int)(offset - slot.Guest);
            step = Math.Min(step, _geometry.ClusterSize - within);
            int at = within;
            for (int i = 0; i < slot.Written.Count; i++)
            {
                (int start, int end) = slot.Written[i];
                start = Math.Clamp(start, at, within + step);
                end = Math.Clamp(end, at, within + step);
                if (start > at)
                    missing[gaps++] = (at - within, start - within);
                slot.Content[start..end].CopyTo(destination[(start - within)..]);
                at = end;
            }

            if (at < within + step)
                missing[gaps++] = (at - within, step);
            return true;
        }
    }

    /// <summary>
    /// Describes a run that is gathered; where there is none, shortens <paramref name="length"/> so that it ends before
    /// the next one.
    /// </summary>
    public bool TryGetExtent(long offset, ref long length, out Extent extent)
    {
        extent = default;
        if (!HoldsAny)
            return false;
        lock (Lock)
        {
            GatheredSlot? slot = FirstIn(offset, offset + length);
            if (slot is null)
                return false;
            if (slot.Guest > offset)
            {
                length = slot.Guest - offset;
                return false;
            }

            length = Math.Min(length, slot.Guest + _geometry.ClusterSize - offset);
            extent = new Extent(offset, length, ExtentKind.Compressed, HostOffset: -1, Depth: 0);
            return true;
        }
    }

    /// <summary>
    /// Makes a slot busy for its caller, who stores it. False where it holds nothing that was there when the clock said
    /// <paramref name="last"/>: it is used anew, or somebody else stored it or, without waiting, is about to.
    /// </summary>
    public bool Seize(GatheredSlot slot, long last, bool waits)
    {
        lock (Lock)
        {
            while (waits && slot.State == SlotState.Busy && slot.Generation <= last)
                Monitor.Wait(Lock);
            if (slot.State != SlotState.Open || slot.Generation > last)
                return false;
            slot.State = SlotState.Busy;
            return true;
        }
    }

    /// <summary>Frees a busy slot that was stored, or opens it again; the lock is held.</summary>
    public void Finish(GatheredSlot slot, bool isStored)
    {
        // After a failure others are tried first, so that one bad cluster does not keep all from being stored.
        slot.LastUse = ++_clock;
        Settle(slot, isStored);
    }

    /// <summary>Claims a range of whole clusters; its slots are busy from then on.</summary>
    public SlotClaim Claim(long start, long end)
    {
        lock (Lock)
        {
            while (_isPaused || IsClaimed(start, end) || HasBusy(start, end))
                Monitor.Wait(Lock);
            SlotClaim claim = new(start, end);
            _claims.Add(claim);
            foreach (GatheredSlot slot in _slots)
            {
                if (slot.State != SlotState.Open || !IsIn(slot, start, end))
                    continue;
                slot.State = SlotState.Busy;
                slot.Holder = claim;
            }

            return claim;
        }
    }

    /// <summary>Drops the slots that a claim holds in a part of its range, or opens them again.</summary>
    public void SettleIn(SlotClaim claim, long start, long end, bool done)
    {
        lock (Lock)
            SettleHeld(claim, start, end, done);
    }

    /// <summary>Ends a claim. What it has not dropped is open again.</summary>
    public void End(SlotClaim claim)
    {
        lock (Lock)
        {
            _claims.Remove(claim);
            SettleHeld(claim, claim.Start, claim.End, done: false);
            Monitor.PulseAll(Lock);
        }
    }

    /// <summary>Lets nothing be gathered or claimed before <see cref="Resume"/>; one pause at a time.</summary>
    public void Pause()
    {
        lock (Lock)
        {
            while (_isPaused)
                Monitor.Wait(Lock);
            _isPaused = true;
        }
    }

    /// <summary>Ends what <see cref="Pause"/> began.</summary>
    public void Resume()
    {
        lock (Lock)
        {
            _isPaused = false;
            Monitor.PulseAll(Lock);
        }
    }

    /// <summary>Releases the memory; what is not stored is lost.</summary>
    public void Dispose() => NativeMemory.AlignedFree(_arena);

    /// <summary>
    /// Finds the open slot of a cluster, or a new one where there was none, or null where all are in use. False while
    /// the cluster is being stored or zeroed, or nothing may be gathered: then the caller waits and asks again.
    /// </summary>
    private bool TryOpen(long cluster, out GatheredSlot? found)
    {
        found = FirstIn(cluster, cluster + 1);
        if (_isPaused || found is { State: not SlotState.Open } || IsClaimed(cluster, cluster + 1))
            return false;
        if (found is not null)
            return true;
        foreach (GatheredSlot free in _slots)
        {
            if (free.State != SlotState.Free)
                continue;
            free.State = SlotState.Open;
            free.Guest = cluster;
            free.Generation = ++_clock;
            free.LastUse = _clock;
            Volatile.Write(ref _used, _used + 1);
            found = free;
            return true;
        }

        return true;
    }

    /// <summary>Whether the guest has written all of a cluster that lies in the disk.</summary>
    private bool IsWhole(GatheredSlot slot) =>
        slot.Written.Covers(0, (int)Math.Min(_geometry.ClusterSize, _size.Length - slot.Guest));

    private static GatheredSlot MakeBusy(GatheredSlot slot)
    {
        slot.State = SlotState.Busy;
        return slot;
    }

    private GatheredSlot? OldestOpen()
    {
        GatheredSlot? oldest = null;
        foreach (GatheredSlot slot in _slots)
        {
            if (slot.State == SlotState.Open && (oldest is null || slot.LastUse < oldest.LastUse))
                oldest = slot;
        }

        return oldest;
    }

    /// <summary>The used slot with the lowest offset that reaches into the range.</summary>
    private GatheredSlot? FirstIn(long start, long end)
    {
        GatheredSlot? first = null;
        foreach (GatheredSlot slot in _slots)
        {
            if (slot.State != SlotState.Free && slot.Guest < end && slot.Guest + _geometry.ClusterSize > start
                && (first is null || slot.Guest < first.Guest))
                first = slot;
        }

        return first;
    }

    /// <summary>Ends the use of a busy slot, or opens it again; the lock is held.</summary>
    private void Settle(GatheredSlot slot, bool done)
    {
        Debug.Assert(Monitor.IsEntered(Lock), "The lock of the slots is not held.");
        slot.State = done ? SlotState.Free : SlotState.Open;
        slot.Holder = null;
        if (done)
        {
            slot.Written.Clear();
            Volatile.Write(ref _used, _used - 1);
        }

        Monitor.PulseAll(Lock);
    }

    /// <summary>
    /// A slot that the claim has opened again may be busy for somebody who stores it by now, and is not the claim's any
    /// more. The lock is held.
    /// </summary>
    private void SettleHeld(SlotClaim claim, long start, long end, bool done)
    {
        foreach (GatheredSlot slot in _slots)
        {
            if (slot.Holder == claim && IsIn(slot, start, end))
                Settle(slot, done);
        }
    }

    private bool IsClaimed(long start, long end)
    {
        foreach (SlotClaim claim in _claims)
        {
            if (claim.Start < end && claim.End > start)
                return true;
        }

        return false;
    }

    private bool HasBusy(long start, long end)
    {
        foreach (GatheredSlot slot in _slots)
        {
            if (slot.State == SlotState.Busy && IsIn(slot, start, end))
                return true;
        }

        return false;
    }

    private static bool IsIn(GatheredSlot slot, long start, long end) => slot.Guest >= start && slot.Guest < end;
}
