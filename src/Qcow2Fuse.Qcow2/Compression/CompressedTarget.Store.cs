// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Compression;

/// <summary>Slots: who gets one, and how it becomes a cluster of the image.</summary>
internal sealed unsafe partial class CompressedTarget
{
    /// <summary>
    /// Puts a part of a cluster into its slot. Where it completes the cluster, the slot is returned busy, for the
    /// caller to store it.
    /// </summary>
    private Slot? Gather(long cluster, int within, ReadOnlySpan<byte> part)
    {
        while (true)
        {
            Slot victim;
            lock (_lock)
            {
                // The disk may have been cut while this waited; then the write was before that.
                if (cluster + within >= _image.Length)
                    return null;
                if (!TryOpenSlot(cluster, out Slot? slot))
                {
                    Monitor.Wait(_lock);
                    continue;
                }

                if (slot is not null && slot.Written.TryAdd(within, within + part.Length))
                {
                    part.CopyTo(slot.Content[within..]);
                    slot.LastUse = ++_clock;
                    int all = (int)Math.Min(_geometry.ClusterSize, _image.Length - cluster);
                    if (!slot.Written.Covers(0, all))
                        return null;
                    slot.State = SlotState.Busy;
                    return slot;
                }

                // Too many pieces of this cluster, or too many clusters: one is stored as far as it goes.
                if ((slot ?? OldestOpen()) is not { } stored)
                {
                    Monitor.Wait(_lock);
                    continue;
                }

                stored.State = SlotState.Busy;
                victim = stored;
            }

            Store(victim);
        }
    }

    /// <summary>
    /// Finds the open slot of a cluster, or a new one where there was none, or null where all are in use. False while
    /// the cluster is being stored or zeroed, or nothing may be gathered: then the caller waits and asks again.
    /// </summary>
    private bool TryOpenSlot(long cluster, out Slot? found)
    {
        found = FirstIn(cluster, cluster + 1);
        if (_isPaused || found is { State: not SlotState.Open } || IsClaimed(cluster, cluster + 1))
            return false;
        if (found is not null)
            return true;
        foreach (Slot free in _slots)
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

    private Slot? OldestOpen()
    {
        Slot? oldest = null;
        foreach (Slot slot in _slots)
        {
            if (slot.State == SlotState.Open && (oldest is null || slot.LastUse < oldest.LastUse))
                oldest = slot;
        }

        return oldest;
    }

    /// <summary>
    /// Makes a slot busy for its caller, who stores it. False where it holds nothing that was there when the clock said
    /// <paramref name="last"/>: it is used anew, or somebody else stored it or, without waiting, is about to.
    /// </summary>
    private bool Seize(Slot slot, long last, bool waits)
    {
        lock (_lock)
        {
            while (waits && slot.State == SlotState.Busy && slot.Generation <= last)
                Monitor.Wait(_lock);
            if (slot.State != SlotState.Open || slot.Generation > last)
                return false;
            slot.State = SlotState.Busy;
            return true;
        }
    }

    /// <summary>Stores a busy slot and frees it; on a failure it is open again.</summary>
    private void Store(Slot slot)
    {
        bool stored = false;
        try
        {
            Complete(slot);
            _image.StoreCluster(new GuestOffset(slot.Guest), slot.Content);
            stored = true;
        }
        finally
        {
            lock (_lock)
            {
                // After a failure others are tried first, so that one bad cluster does not keep all from being stored.
                slot.LastUse = ++_clock;
                Settle(slot, stored);
            }
        }

        _image.WriteFinishedClusters();
    }

    /// <summary>Fills what the guest has not written from what the image holds, zeroes beyond its end.</summary>
    private void Complete(Slot slot)
    {
        int at = 0;
        for (int i = 0; i <= slot.Written.Count; i++)
        {
            (int start, int end) = i < slot.Written.Count
                ? slot.Written[i] : (_geometry.ClusterSize, _geometry.ClusterSize);
            if (start > at)
                _image.ReadStored(new GuestOffset(slot.Guest + at), slot.Content[at..start]);
            at = end;
        }
    }

    /// <summary>Ends the use of a busy slot, or opens it again; the lock is held.</summary>
    private void Settle(Slot slot, bool done)
    {
        slot.State = done ? SlotState.Free : SlotState.Open;
        slot.Holder = null;
        if (done)
        {
            slot.Written.Clear();
            Volatile.Write(ref _used, _used - 1);
        }

        Monitor.PulseAll(_lock);
    }

    private bool IsClaimed(long start, long end)
    {
        foreach (Claim claim in _claims)
        {
            if (claim.Start < end && claim.End > start)
                return true;
        }

        return false;
    }

    /// <summary>Claims a range of whole clusters; its slots are busy from then on.</summary>
    private Claim Take(long start, long end)
    {
        lock (_lock)
        {
            while (_isPaused || IsClaimed(start, end) || HasBusy(start, end))
                Monitor.Wait(_lock);
            Claim claim = new(start, end);
            _claims.Add(claim);
            foreach (Slot slot in _slots)
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
    private void SettleIn(Claim claim, long start, long end, bool done)
    {
        lock (_lock)
            SettleHeld(claim, start, end, done);
    }

    /// <summary>Ends a claim. What it has not dropped is open again.</summary>
    private void End(Claim claim)
    {
        lock (_lock)
        {
            _claims.Remove(claim);
            SettleHeld(claim, claim.Start, claim.End, done: false);
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>
    /// A slot that the claim has opened again may be busy for somebody who stores it by now, and is not the claim's any
    /// more. The lock is held.
    /// </summary>
    private void SettleHeld(Claim claim, long start, long end, bool done)
    {
        foreach (Slot slot in _slots)
        {
            if (slot.Holder == claim && IsIn(slot, start, end))
                Settle(slot, done);
        }
    }

    private bool HasBusy(long start, long end)
    {
        foreach (Slot slot in _slots)
        {
            if (slot.State == SlotState.Busy && IsIn(slot, start, end))
                return true;
        }

        return false;
    }

    private static bool IsIn(Slot slot, long start, long end) => slot.Guest >= start && slot.Guest < end;
}
