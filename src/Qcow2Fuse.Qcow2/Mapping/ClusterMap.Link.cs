// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Publishing of what was written, and freeing of what it replaced.</summary>
internal sealed partial class ClusterMap
{
    /// <summary>
    /// Makes the L2 entries point at an allocation whose data has been written, frees what they pointed at before, and
    /// wakes whoever waits for it. On an exception the allocation is still in flight.
    /// </summary>
    public void Link(ClusterAllocation allocation)
    {
        _gate.AssertHeld();
        using (CachedTable slice = GetSliceForWrite(allocation.Start, isInFlight: true))
        {
            int index = _geometry.IndexInSlice(allocation.Start);
            if (!allocation.InPlace)
                CheckReleasable(slice, allocation, index);
            Span<byte> entries = slice.Modify();
            for (int i = 0; i < allocation.Clusters; i++)
            {
                GuestOffset cluster = allocation.Start + ((long)i << _geometry.ClusterBits);
                L2Entry old = L2Entry.Read(entries, index + i, _geometry);
                Linked(allocation, cluster, old).Write(entries, index + i, _geometry);
                if (!allocation.InPlace)
                    Release(old);
            }
        }

        End(allocation);
    }

    private L2Entry Linked(ClusterAllocation allocation, GuestOffset cluster, L2Entry old)
    {
        if (allocation.Descriptor != 0)
            return new L2Entry(allocation.Descriptor, 0);
        ulong descriptor = (ulong)allocation.HostOf(cluster).Value | L2Entry.CopiedFlag;
        if (!_geometry.ExtendedL2)
            return new L2Entry(descriptor, 0);
        long from = Math.Max(0, allocation.CowStart - cluster);
        long to = Math.Min(_geometry.ClusterSize, allocation.CowEnd - cluster);
        int first = (int)(from >> _geometry.SubclusterBits);
        int end = (int)((to + _geometry.SubclusterSize - 1) >> _geometry.SubclusterBits);
        ulong bitmap = old.IsCompressed ? 0 : old.Bitmap;
        bitmap |= L2Entry.AllocatedBits(first, end);
        bitmap &= ~L2Entry.ZeroBits(first, end);
        return new L2Entry(descriptor, bitmap);
    }

    /// <summary>Nothing is linked where one of the entries points at what cannot be its cluster.</summary>
    private void CheckReleasable(CachedTable slice, ClusterAllocation allocation, int index)
    {
        for (int i = 0; i < allocation.Clusters; i++)
        {
            GuestOffset cluster = allocation.Start + ((long)i << _geometry.ClusterBits);
            CheckReleasable(L2Entry.Read(slice.Bytes, index + i, _geometry), cluster);
        }
    }

    /// <summary>
    /// Refuses to give up what an entry points at where that cannot be its cluster: a part of two clusters, metadata,
    /// or nothing. What lies there, somebody else's, would be freed and punched.
    /// </summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Corrupt"/>.</exception>
    private void CheckReleasable(L2Entry old, GuestOffset guest)
    {
        if (_geometry.DataIsExternal)
            return;
        if (old.IsCompressed)
        {
            CompressedExtent extent = CompressedExtent.Decode(old.Descriptor, _geometry);
            CheckInFile(extent.Host, guest);
            _caches.Guard.CheckData(extent.Host, extent.BytesMax, guest);
        }
        else if (old.HasHost)
        {
            HostOffset host = CheckedHost(old, guest);
            CheckInFile(host, guest);
            _caches.Guard.CheckData(host, _geometry.ClusterSize, guest);
        }
    }

    private void CheckInFile(HostOffset host, GuestOffset guest)
    {
        if (host.Value >= _caches.Allocator.UsedEnd)
            throw Corrupt($"what is mapped to {host.Value} lies beyond the end of the file", guest);
    }

    /// <summary>Gives up the reference that an entry which was replaced in memory still has on disk.</summary>
    private void Release(L2Entry old)
    {
        if (_geometry.DataIsExternal)
            return;
        long epoch = _caches.Epochs.Current;
        if (old.IsCompressed)
        {
            CompressedExtent extent = CompressedExtent.Decode(old.Descriptor, _geometry);
            long first = extent.Host.Value >> _geometry.ClusterBits;
            long last = (extent.Host.Value + extent.BytesMax - 1) >> _geometry.ClusterBits;
            _caches.Frees.Add(
                new HostOffset(first << _geometry.ClusterBits), (int)(last - first + 1), epoch);
        }
        else if (old.HasHost)
        {
            _caches.Frees.Add(old.Host, 1, epoch);
        }
    }
}
