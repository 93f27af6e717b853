// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// Translates guest offsets to host offsets and changes the translation: L1 table, L2 slices, subclusters.
/// </summary>
/// <remarks>
/// <para>
/// A lookup answers with a small value and the caller does the I/O without the gate. A write asks
/// <see cref="Allocate"/> where its data goes, writes it, and then publishes it by <see cref="Link"/>: never the other
/// way round. Between the two the allocation is in flight and keeps others away from its clusters; on a failure
/// <see cref="Abort"/> takes it back.
/// </para>
/// <para>
/// Every method but <see cref="FindRun"/> is called with the image's gate held exactly once and may release it while a
/// table is loaded.
/// </para>
/// </remarks>
internal sealed partial class ClusterMap
{
    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly MetadataCaches _caches;
    private readonly ImageGate _gate;
    private readonly ImageCore _image;
    private readonly bool _keepsPlace;
    private readonly ResidentTable? _snapshotL1;

    /// <summary>
    /// The map of the active disk, or of a snapshot, whose L1 table is given; that one is for lookups only.
    /// </summary>
    public ClusterMap(ImageCore image, MetadataCaches caches, bool keepsPlace, ResidentTable? snapshotL1 = null)
    {
        _image = image;
        _snapshotL1 = snapshotL1;
        _file = image.File;
        _geometry = image.Geometry;
        _caches = caches;
        _gate = image.Gate;
        _keepsPlace = keepsPlace;
        InFlight = new InFlightAllocations(_geometry, _gate);
    }

    public InFlightAllocations InFlight { get; }

    private ResidentTable L1 => _snapshotL1 ?? _caches.L1;

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
    /// What the first bytes of a range are that is going to be zeroed in place, once no allocation under way touches
    /// it and writes are not held back.
    /// </summary>
    public ReadMapping LookupForZero(GuestOffset guest, long length)
    {
        _gate.AssertHeld();
        length = Math.Min(length, _geometry.BytesToSliceEnd(guest));
        while (true)
        {
            WaitWhileHeld();
            ReadMapping mapping = Lookup(guest, length);
            if (!_held && !InFlight.Touches(guest, mapping.Length))
                return mapping;
            if (!_held)
                InFlight.WaitForOne();
        }
    }

    private ReadMapping LookupIn(ReadOnlySpan<byte> slice, GuestOffset guest, long length)
    {
        int index = _geometry.IndexInSlice(guest);
        int subcluster = _geometry.SubclusterIndex(guest);
        L2Entry entry = L2Entry.Read(slice, index, _geometry);
        SubclusterType type = TypeOf(entry, subcluster, guest);
        MappingKind kind = KindOf(type);
        if (kind == MappingKind.Compressed)
        {
            long toEnd = _geometry.ClusterSize - _geometry.InCluster(guest);
            return new ReadMapping(kind, Math.Min(length, toEnd), default, entry.Descriptor);
        }

        HostOffset host = default;
        if (kind == MappingKind.Data)
            host = CheckedHost(entry, guest) + _geometry.InCluster(guest);
        long covered = _geometry.SubclusterSize - (guest.Value & (_geometry.SubclusterSize - 1));
        while (covered < length)
        {
            if (++subcluster == _geometry.Subclusters)
            {
                subcluster = 0;
                entry = L2Entry.Read(slice, ++index, _geometry);
            }

            GuestOffset next = guest + covered;
            type = TypeOf(entry, subcluster, next, allowInvalid: true);
            if (type == SubclusterType.Invalid || KindOf(type) != kind)
                break;
            if (kind == MappingKind.Data && subcluster == 0 && entry.Host.Value != host.Value + covered)
                break;
            covered += _geometry.SubclusterSize;
        }

        return new ReadMapping(kind, Math.Min(covered, length), host, 0);
    }

    /// <summary>
    /// Whether a cluster for which nothing is stored is zero for good: no backing file reaches it, and where the guest
    /// has asked for zeroes (<paramref name="isSaid"/>) there is none that could grow up to it.
    /// </summary>
    private bool IsZeroUnsaid(GuestOffset guest, bool isSaid) =>
        _image.Backing is not { } backing || (!isSaid && guest.Value >= backing.Length);

    private static MappingKind KindOf(SubclusterType type) => type switch
    {
        SubclusterType.Normal => MappingKind.Data,
        SubclusterType.ZeroPlain or SubclusterType.ZeroAllocated => MappingKind.Zero,
        SubclusterType.UnallocatedPlain or SubclusterType.UnallocatedAllocated => MappingKind.Unallocated,
        SubclusterType.Compressed => MappingKind.Compressed,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "Invalid subclusters have no mapping."),
    };

    private SubclusterType TypeOf(L2Entry entry, int subcluster, GuestOffset guest, bool allowInvalid = false)
    {
        SubclusterType type = entry.TypeOf(subcluster, _geometry);
        if (type != SubclusterType.Compressed && entry.HasHost && !IsPlace(entry, guest))
        {
            // No part of such an entry is believed, subclusters without data included.
            if (!allowInvalid)
                CheckedHost(entry, guest);
            return SubclusterType.Invalid;
        }

        if (type == SubclusterType.Invalid && !allowInvalid)
            throw Corrupt($"L2 entry 0x{entry.Descriptor:x} with bitmap 0x{entry.Bitmap:x} is invalid", guest);
        if (type == SubclusterType.Compressed && _geometry.DataIsExternal)
            throw Corrupt("a compressed cluster in an image with an external data file", guest);
        return type;
    }

    /// <summary>Whether a host cluster can be where an entry says.</summary>
    private bool IsPlace(L2Entry entry, GuestOffset guest) =>
        (entry.Host.Value & _geometry.ClusterMask) == 0
        && (!_geometry.DataIsExternal || entry.Host.Value == _geometry.ClusterStart(guest).Value);

    /// <summary>The host cluster of an entry that has one, checked for alignment and place.</summary>
    private HostOffset CheckedHost(L2Entry entry, GuestOffset guest)
    {
        HostOffset host = entry.Host;
        if ((host.Value & _geometry.ClusterMask) != 0)
            throw Corrupt($"host cluster offset {host.Value} is not aligned", guest, isContained: true);
        if (_geometry.DataIsExternal && host.Value != _geometry.ClusterStart(guest).Value)
            throw Corrupt($"offset {host.Value} in the external data file is not the guest offset", guest);
        return host;
    }

    /// <summary>Pins the slice that maps <paramref name="guest"/>; false where no L2 table does.</summary>
    private bool TryGetSlice(GuestOffset guest, out CachedTable slice)
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
            long table = CheckedTable(entry, guest);
            if (table == 0)
            {
                slice = default;
                return false;
            }

            slice = _caches.L2.Get(table + _geometry.SliceOffset(guest));
            if (index < L1.Count && L1[index] == entry)
                return true;

            // The table was replaced while its slice was being loaded.
            slice.Dispose();
        }
    }

    private long CheckedTable(ulong l1Entry, GuestOffset guest)
    {
        long table = (long)(l1Entry & L1Entry.OffsetMask);
        if ((table & _geometry.ClusterMask) != 0)
            throw Corrupt($"L2 table offset {table} is not aligned", guest);
        if (table != 0 && table > _file.Length - _geometry.ClusterSize)
            throw Corrupt($"L2 table at {table} lies beyond the end of the file", guest);
        return table;
    }

    private BlockException Corrupt(string reason, GuestOffset guest, bool isContained = false) =>
        new(BlockErrorKind.Corrupt, $"{_file.Name}: {reason} (guest offset {guest.Value})")
        {
            IsContained = isContained,
        };
}
