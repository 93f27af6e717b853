// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Where bytes of the active disk are replaced and no table is changed.</summary>
/// <remarks>All methods are called with the image's gate held exactly once.</remarks>
internal sealed class InPlaceLookup
{
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly MetadataTables _tables;
    private readonly OverlapGuard _guard;
    private readonly CheckedEntries _entries;
    private readonly ClusterLookup _lookup;
    private readonly InFlightAllocations _inFlight;
    private readonly WriteHold _hold;

    public InPlaceLookup(
        ImageCore image, MetadataTables tables, OverlapGuard guard, CheckedEntries entries, ClusterLookup lookup,
        InFlightAllocations inFlight, WriteHold hold)
    {
        _geometry = image.Geometry;
        _gate = image.Gate;
        _tables = tables;
        _guard = guard;
        _entries = entries;
        _lookup = lookup;
        _inFlight = inFlight;
        _hold = hold;
    }

    /// <summary>
    /// Where a write goes that does nothing but replace bytes: the whole range lies in one run of clusters that are
    /// ours alone and hold data, no allocation under way touches it, and writes are not held back. False otherwise.
    /// Does no I/O and never releases the gate, for callers that must not wait. The caller enters the epoch before it
    /// lets go of the gate, as <see cref="ClusterAllocations.Allocate"/> does.
    /// </summary>
    public bool TryOverwrite(GuestOffset guest, int length, out HostOffset host)
    {
        _gate.AssertHeld();
        host = default;
        long index = _geometry.L1Index(guest);
        if (_hold.IsHeld || length > _geometry.BytesToSliceEnd(guest) || index >= _tables.L1.Count)
            return false;
        ulong l1 = _tables.L1[index];
        long table = _entries.CheckedTable(l1, guest);
        if (table == 0 || (l1 & L1Entry.Copied) == 0 || _inFlight.Clip(guest, length) < length
            || !_tables.L2.TryGet(table + _geometry.SliceOffset(guest), out CachedTable slice))
            return false;
        using (slice)
            return IsPlainRun(slice.Bytes, guest, length, out host);
    }

    /// <summary>
    /// What the first bytes of a range are that is going to be zeroed in place, once no allocation under way touches
    /// it and writes are not held back. The gate is released while it waits, and while a table is loaded.
    /// </summary>
    public ReadMapping LookupForZero(GuestOffset guest, long length)
    {
        _gate.AssertHeld();
        length = Math.Min(length, _geometry.BytesToSliceEnd(guest));
        while (true)
        {
            _hold.WaitWhileHeld();
            ReadMapping mapping = _lookup.Lookup(guest, length);
            if (!_hold.IsHeld && !_inFlight.Touches(guest, mapping.Length))
                return mapping;
            if (!_hold.IsHeld)
                _inFlight.WaitForOne();
        }
    }

    private bool IsPlainRun(ReadOnlySpan<byte> slice, GuestOffset guest, int length, out HostOffset host)
    {
        HostOffset first = L2Entry.Read(slice, _geometry.IndexInSlice(guest), _geometry).Host;
        host = first + _geometry.InCluster(guest);
        GuestOffset start = _geometry.ClusterStart(guest);
        GuestOffset end = guest + length;
        for (GuestOffset at = guest; at.Value < end.Value; at = _geometry.ClusterStart(at) + _geometry.ClusterSize)
        {
            L2Entry entry = L2Entry.Read(slice, _geometry.IndexInSlice(at), _geometry);
            if (!_entries.IsWritableInPlace(entry) || !_entries.IsNormalIn(slice, at, end)
                || _entries.CheckedHost(entry, at).Value != first.Value + (_geometry.ClusterStart(at) - start))
                return false;
        }

        return _geometry.DataIsExternal || _guard.Allows(host, length);
    }
}
