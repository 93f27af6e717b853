// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// Translates guest offsets to host offsets, for the active disk or a snapshot: L1 table, L2 slices, subclusters.
/// </summary>
/// <remarks>
/// A lookup answers with a small value and the caller does the I/O without the gate. Every method is called with the
/// image's gate held exactly once; <see cref="Lookup"/> and <see cref="TryGetSlice"/> may release it while a table is
/// loaded.
/// </remarks>
internal sealed class ClusterLookup
{
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly MetadataTables _tables;
    private readonly CheckedEntries _entries;
    private readonly ResidentTable? _snapshotL1;

    /// <param name="image">The image.</param>
    /// <param name="tables">Its tables in memory.</param>
    /// <param name="entries">What entries mean.</param>
    /// <param name="snapshotL1">The L1 table of a snapshot, or null for the active disk.</param>
    public ClusterLookup(
        ImageCore image, MetadataTables tables, CheckedEntries entries, ResidentTable? snapshotL1 = null)
    {
        _geometry = image.Geometry;
        _gate = image.Gate;
        _tables = tables;
        _entries = entries;
        _snapshotL1 = snapshotL1;
    }

    /// <summary>The L1 table of the disk. That of the active one is another after a change of its size.</summary>
    public ResidentTable L1 => _snapshotL1 ?? _tables.L1;

    /// <summary>What the first bytes of the range are, and how far that goes.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Corrupt"/> for an entry that is invalid.</exception>
    public ReadMapping Lookup(GuestOffset guest, long length)
    {
        _gate.AssertHeld();
        length = Math.Min(length, _geometry.BytesToSliceEnd(guest));
        if (!TryGetSlice(guest, out CachedTable slice))
            return new ReadMapping(MappingKind.Unallocated, length, default, 0);
        using (slice)
            return LookupIn(slice.Bytes, guest, length);
    }

    /// <summary>
    /// As <see cref="Lookup"/>, where the L2 slice is in memory; false where it is not. Does no I/O and never releases
    /// the gate, for callers that must not wait. Such entries as <see cref="Lookup"/> throws at are thrown at here too.
    /// </summary>
    public bool TryLookup(GuestOffset guest, long length, out ReadMapping mapping)
    {
        _gate.AssertHeld();
        length = Math.Min(length, _geometry.BytesToSliceEnd(guest));
        mapping = default;
        long table = TableAt(guest);
        if (table == 0)
        {
            mapping = new ReadMapping(MappingKind.Unallocated, length, default, 0);
            return true;
        }

        if (!_tables.L2.TryGet(table + _geometry.SliceOffset(guest), out CachedTable slice))
            return false;
        using (slice)
            mapping = LookupIn(slice.Bytes, guest, length);
        return true;
    }

    /// <summary>What the first bytes of a range are that <paramref name="slice"/> maps.</summary>
    public ReadMapping LookupIn(ReadOnlySpan<byte> slice, GuestOffset guest, long length)
    {
        int index = _geometry.IndexInSlice(guest);
        int subcluster = _geometry.SubclusterIndex(guest);
        L2Entry entry = L2Entry.Read(slice, index, _geometry);
        SubclusterType type = _entries.TypeOf(entry, subcluster, guest);
        MappingKind kind = CheckedEntries.KindOf(type);
        if (kind == MappingKind.Compressed)
        {
            long toEnd = _geometry.ClusterSize - _geometry.InCluster(guest);
            return new ReadMapping(kind, Math.Min(length, toEnd), default, entry.Descriptor);
        }

        HostOffset host = default;
        if (kind == MappingKind.Data)
            host = _entries.CheckedHost(entry, guest) + _geometry.InCluster(guest);
        long covered = _geometry.SubclusterSize - (guest.Value & (_geometry.SubclusterSize - 1));
        while (covered < length)
        {
            if (++subcluster == _geometry.Subclusters)
            {
                subcluster = 0;
                entry = L2Entry.Read(slice, ++index, _geometry);
            }

            GuestOffset next = guest + covered;
            type = _entries.TypeOf(entry, subcluster, next, allowInvalid: true);
            if (type == SubclusterType.Invalid || CheckedEntries.KindOf(type) != kind)
                break;
            if (kind == MappingKind.Data && subcluster == 0 && entry.Host.Value != host.Value + covered)
                break;
            covered += _geometry.SubclusterSize;
        }

        return new ReadMapping(kind, Math.Min(covered, length), host, 0);
    }

    /// <summary>The L2 table that maps <paramref name="guest"/>; 0 where none does. Never releases the gate.</summary>
    public long TableAt(GuestOffset guest)
    {
        long index = _geometry.L1Index(guest);
        return index < L1.Count ? _entries.CheckedTable(L1[index], guest) : 0;
    }

    /// <summary>
    /// Pins the slice that maps <paramref name="guest"/>; false where no L2 table does. May release the gate.
    /// </summary>
    public bool TryGetSlice(GuestOffset guest, out CachedTable slice)
    {
        long index = _geometry.L1Index(guest);
        while (true)
        {
            if (index >= L1.Count)
            {
                slice = default;
                return false;
            }

            ulong entry = L1[index];
            long table = _entries.CheckedTable(entry, guest);
            if (table == 0)
            {
                slice = default;
                return false;
            }

            slice = _tables.L2.Get(table + _geometry.SliceOffset(guest));
            if (index < L1.Count && L1[index] == entry)
                return true;

            // The table was replaced while its slice was being loaded.
            slice.Dispose();
        }
    }
}
