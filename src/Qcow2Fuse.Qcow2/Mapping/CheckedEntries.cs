// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// What entries of L1 and L2 tables mean. One that cannot be right is damage, and no part of it is believed.
/// </summary>
/// <remarks>Looks only at what it is given, so it needs no lock.</remarks>
internal sealed class CheckedEntries(ImageCore image)
{
    private readonly BlockDevice _file = image.File;
    private readonly Qcow2Geometry _geometry = image.Geometry;

    /// <summary>What a subcluster that is not invalid is for a reader.</summary>
    public static MappingKind KindOf(SubclusterType type) => type switch
    {
        SubclusterType.Normal => MappingKind.Data,
        SubclusterType.ZeroPlain or SubclusterType.ZeroAllocated => MappingKind.Zero,
        SubclusterType.UnallocatedPlain or SubclusterType.UnallocatedAllocated => MappingKind.Unallocated,
        SubclusterType.Compressed => MappingKind.Compressed,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "Invalid subclusters have no mapping."),
    };

    /// <summary>What a subcluster of the cluster at <paramref name="guest"/> is.</summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.Corrupt"/> for an entry that is invalid, unless <paramref name="allowInvalid"/> has
    /// that answered.
    /// </exception>
    public SubclusterType TypeOf(L2Entry entry, int subcluster, GuestOffset guest, bool allowInvalid = false)
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

    /// <summary>What the subcluster of <paramref name="guest"/> is.</summary>
    public SubclusterType TypeAt(ReadOnlySpan<byte> slice, GuestOffset guest) => TypeOf(
        L2Entry.Read(slice, _geometry.IndexInSlice(guest), _geometry), _geometry.SubclusterIndex(guest), guest);

    /// <summary>Whether the host cluster of an entry belongs to nobody else.</summary>
    public bool IsWritableInPlace(L2Entry entry) => entry.IsCopied && entry.HasHostIn(_geometry);

    /// <summary>
    /// Whether every subcluster of the cluster of <paramref name="guest"/> between it and <paramref name="end"/> holds
    /// data.
    /// </summary>
    public bool IsNormalIn(ReadOnlySpan<byte> slice, GuestOffset guest, GuestOffset end)
    {
        L2Entry entry = L2Entry.Read(slice, _geometry.IndexInSlice(guest), _geometry);
        if (TypeOf(entry, 0, guest) is SubclusterType.Compressed)
            return false;
        GuestOffset clusterEnd = _geometry.ClusterStart(guest) + _geometry.ClusterSize;
        GuestOffset last = new(Math.Min(end.Value, clusterEnd.Value) - 1);
        for (int index = _geometry.SubclusterIndex(guest); index <= _geometry.SubclusterIndex(last); index++)
        {
            if (entry.TypeOf(index, _geometry) != SubclusterType.Normal)
                return false;
        }

        return true;
    }

    /// <summary>The host cluster of an entry that has one, checked for alignment and place.</summary>
    public HostOffset CheckedHost(L2Entry entry, GuestOffset guest)
    {
        HostOffset host = entry.Host;
        if ((host.Value & _geometry.ClusterMask) != 0)
            throw Corrupt($"host cluster offset {host.Value} is not aligned", guest, isContained: true);
        if (_geometry.DataIsExternal && host.Value != _geometry.ClusterStart(guest).Value)
            throw Corrupt($"offset {host.Value} in the external data file is not the guest offset", guest);
        return host;
    }

    /// <summary>The L2 table of an L1 entry, checked for alignment and place; 0 where there is none.</summary>
    public long CheckedTable(ulong l1Entry, GuestOffset guest)
    {
        long table = (long)(l1Entry & L1Entry.OffsetMask);
        if ((table & _geometry.ClusterMask) != 0)
            throw Corrupt($"L2 table offset {table} is not aligned", guest);
        if (table != 0 && table > _file.Length - _geometry.ClusterSize)
            throw Corrupt($"L2 table at {table} lies beyond the end of the file", guest);
        return table;
    }

    /// <summary>What is thrown at damage that concerns <paramref name="guest"/>.</summary>
    public BlockException Corrupt(string reason, GuestOffset guest, bool isContained = false) =>
        new(BlockErrorKind.Corrupt, $"{_file.Name}: {reason} (guest offset {guest.Value})")
        {
            IsContained = isContained,
        };

    /// <summary>Whether a host cluster can be where an entry says.</summary>
    private bool IsPlace(L2Entry entry, GuestOffset guest) =>
        (entry.Host.Value & _geometry.ClusterMask) == 0
        && (!_geometry.DataIsExternal || entry.Host.Value == _geometry.ClusterStart(guest).Value);
}
