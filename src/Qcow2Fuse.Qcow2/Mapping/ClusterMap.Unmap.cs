// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Giving up everything beyond the end of a disk that shrinks.</summary>
internal sealed partial class ClusterMap
{
    /// <summary>
    /// Looks at every table that <see cref="UnmapFrom"/> would change, before anything is. Writes are held back and
    /// everything has been flushed.
    /// </summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.Corrupt"/>: an entry points at what cannot be given up.
    /// </exception>
    public void CheckUnmap(GuestOffset end)
    {
        _gate.AssertHeld();
        using PooledBuffer table = BufferPool.Shared.Rent(_geometry.ClusterSize);
        for (long index = _geometry.L1Index(end); index < _caches.L1.Count; index++)
        {
            GuestOffset start = new(Math.Max(end.Value, index * _geometry.L2Coverage));
            long place = CheckedTable(_caches.L1[index], start);
            if (place == 0)
                continue;
            _file.Read(place, table.Span);
            for (int entry = _geometry.L2Index(start); entry < 1 << _geometry.L2Bits; entry++)
            {
                CheckReleasable(
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
            if (first < _caches.L1.Count && CheckedTable(_caches.L1[first], end) != 0)
                UnmapToEndOfTable(end);
            first++;
        }

        for (long index = first; index < _caches.L1.Count; index++)
        {
            ulong entry = _caches.L1[index];
            if ((entry & L1Entry.OffsetMask) != 0)
                GiveUpTable(index, CheckedTable(entry, new GuestOffset(index * _geometry.L2Coverage)));
        }
    }

    private void UnmapToEndOfTable(GuestOffset from)
    {
        long end = (from.Value | (_geometry.L2Coverage - 1)) + 1;
        for (GuestOffset at = from; at.Value < end; at += _geometry.BytesToSliceEnd(at))
        {
            using CachedTable slice = GetSliceForWrite(at, isInFlight: true);
            for (int index = _geometry.IndexInSlice(at); index < _geometry.SliceEntries; index++)
            {
                L2Entry old = L2Entry.Read(slice.Bytes, index, _geometry);
                if (old == L2Entry.Empty)
                    continue;
                CheckReleasable(old, at + ((index - (long)_geometry.IndexInSlice(at)) << _geometry.ClusterBits));
                L2Entry.Empty.Write(slice.Modify(), index, _geometry);
                Release(old);
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
            CheckReleasable(L2Entry.Read(content.Span, entry, _geometry), new GuestOffset(cluster));
        }

        _caches.L1[index] = 0;
        for (int entry = 0; entry < 1 << _geometry.L2Bits; entry++)
            Release(L2Entry.Read(content.Span, entry, _geometry));
        _caches.Frees.Add(new HostOffset(table), 1, _caches.Epochs.Current, isTable: true);
    }
}
