// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Lookups that do no I/O and never release the gate, for callers that must not wait.</summary>
internal sealed partial class ClusterMap
{
    /// <summary>
    /// As <see cref="Lookup"/>, where the L2 slice is in memory; false where it is not. Such entries as
    /// <see cref="Lookup"/> throws at are thrown at here too.
    /// </summary>
    public bool TryLookup(GuestOffset guest, long length, out ReadMapping mapping)
    {
        _gate.AssertHeld();
        length = Math.Min(length, _geometry.BytesToSliceEnd(guest));
        mapping = default;
        long index = _geometry.L1Index(guest);
        long table = index < L1.Count ? CheckedTable(L1[index], guest) : 0;
        if (table == 0)
        {
            mapping = new ReadMapping(MappingKind.Unallocated, length, default, 0);
            return true;
        }

        if (!_caches.L2.TryGet(table + _geometry.SliceOffset(guest), out CachedTable slice))
            return false;
        using (slice)
            mapping = LookupIn(slice.Bytes, guest, length);
        return true;
    }

    /// <summary>
    /// Where a write goes that does nothing but replace bytes: the whole range lies in one run of clusters that are
    /// ours alone and hold data, no allocation under way touches it, and writes are not held back. False otherwise.
    /// The caller enters the epoch before it lets go of the gate, as <see cref="Allocate"/> does.
    /// </summary>
    public bool TryOverwrite(GuestOffset guest, int length, out HostOffset host)
    {
        _gate.AssertHeld();
        host = default;
        long index = _geometry.L1Index(guest);
        if (_held || length > _geometry.BytesToSliceEnd(guest) || index >= _caches.L1.Count)
            return false;
        ulong l1 = _caches.L1[index];
        long table = CheckedTable(l1, guest);
        if (table == 0 || (l1 & L1Entry.Copied) == 0 || InFlight.Clip(guest, length) < length
            || !_caches.L2.TryGet(table + _geometry.SliceOffset(guest), out CachedTable slice))
            return false;
        using (slice)
            return IsPlainRun(slice.Bytes, guest, length, out host);
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
            if (!IsWritableInPlace(entry) || !IsNormalIn(slice, at, end)
                || CheckedHost(entry, at).Value != first.Value + (_geometry.ClusterStart(at) - start))
                return false;
        }

        return _geometry.DataIsExternal || _caches.Guard.Allows(host, length);
    }
}
