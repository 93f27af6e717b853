// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Giving up everything beyond the end of a disk that shrinks.</summary>
/// <remarks>All methods are called with the image's gate held and may release it while a table is loaded.</remarks>
internal sealed class DiskCut(
    ImageCore image, ImageMetadata metadata, CheckedEntries entries, ReplacedEntries replaced, WritableTables tables)
{
    private readonly BlockDevice _file = image.File;
    private readonly Qcow2Geometry _geometry = image.Geometry;
    private readonly ImageGate _gate = image.Gate;

    /// <summary>
    /// Looks at every table that <see cref="UnmapFrom"/> would change, before anything is. Writes are held back and
    /// everything has been flushed.
    /// </summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.Corrupt"/>: an entry points at what cannot be given up.
    /// </exception>
    public void Check(GuestOffset end)
    {
        _gate.AssertHeld();
        using PooledBuffer table = BufferPool.Shared.Rent(_geometry.ClusterSize);
        for (long index = _geometry.L1Index(end); index < metadata.Tables.L1.Count; index++)
        {
            GuestOffset start = new(Math.Max(end.Value, index * _geometry.L2Coverage));
            long place = entries.CheckedTable(metadata.Tables.L1[index], start);
            if (place == 0)
                continue;
            _file.Read(place, table.Span);
            for (int entry = _geometry.L2Index(start); entry < 1 << _geometry.L2Bits; entry++)
            {
                replaced.CheckReleasable(
                    L2Entry.Read(table.Span, entry, _geometry),
                    new GuestOffset((index * _geometry.L2Coverage) + ((long)entry << _geometry.ClusterBits)));
            }
        }
    }

    /// <summary>
    /// Unmaps every cluster from <paramref name="end"/>, a cluster boundary, on. Writes are held back and everything
    /// has been flushed. Tables that map nothing else are given up whole.
    /// </summary>
    public void UnmapFrom(GuestOffset end)
    {
        _gate.AssertHeld();
        long first = end.Value >> (_geometry.L2Bits + _geometry.ClusterBits);
        bool isPartial = (end.Value & (_geometry.L2Coverage - 1)) != 0;
        if (isPartial)
        {
            if (first < metadata.Tables.L1.Count && entries.CheckedTable(metadata.Tables.L1[first], end) != 0)
                UnmapToEndOfTable(end);
            first++;
        }

        for (long index = first; index < metadata.Tables.L1.Count; index++)
        {
            ulong entry = metadata.Tables.L1[index];
            if ((entry & L1Entry.OffsetMask) != 0)
                GiveUpTable(index, entries.CheckedTable(entry, new GuestOffset(index * _geometry.L2Coverage)));
        }
    }

    private void UnmapToEndOfTable(GuestOffset from)
    {
        long end = (from.Value | (_geometry.L2Coverage - 1)) + 1;
        for (GuestOffset at = from; at.Value < end; at += _geometry.BytesToSliceEnd(at))
        {
            using CachedTable slice = tables.GetSliceForWrite(at, isInFlight: true);
            for (int index = _geometry.IndexInSlice(at); index < _geometry.SliceEntries; index++)
            {
                L2Entry old = L2Entry.Read(slice.Bytes, index, _geometry);
                if (old == L2Entry.Empty)
                    continue;
                replaced.CheckReleasable(
                    old, at + ((index - (long)_geometry.IndexInSlice(at)) << _geometry.ClusterBits));
                L2Entry.Empty.Write(slice.Modify(), index, _geometry);
                replaced.Release(old);
            }
        }
    }

    /// <summary>
    /// Removes an L1 entry. Nothing of its table is dirty, so the file holds all of it. Where a snapshot shares the
    /// table, table and clusters only lose the reference of the active disk.
    /// </summary>
    private void GiveUpTable(long index, long table)
    {
        using PooledBuffer content = BufferPool.Shared.Rent(_geometry.ClusterSize);
        _file.Read(table, content.Span);
        for (int entry = 0; entry < 1 << _geometry.L2Bits; entry++)
        {
            long cluster = (index * _geometry.L2Coverage) + ((long)entry << _geometry.ClusterBits);
            replaced.CheckReleasable(L2Entry.Read(content.Span, entry, _geometry), new GuestOffset(cluster));
        }

        metadata.Tables.L1[index] = 0;
        for (int entry = 0; entry < 1 << _geometry.L2Bits; entry++)
            replaced.Release(L2Entry.Read(content.Span, entry, _geometry));
        metadata.Frees.Add(new HostOffset(table), 1, metadata.Epochs.Current, isTable: true);
    }
}
