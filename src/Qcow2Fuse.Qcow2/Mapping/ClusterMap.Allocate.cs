// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Where writes go: in place, into reserved subclusters, or into new clusters.</summary>
internal sealed partial class ClusterMap
{
    /// <summary>
    /// Finds or allocates the place for a write. Waits while an allocation under way covers its first cluster.
    /// </summary>
    /// <returns>
    /// How many bytes go where. With an allocation the caller writes head, data and tail and calls <see cref="Link"/>
    /// or <see cref="Abort"/>; without one it writes the data and leaves the epoch.
    /// </returns>
    public WriteMapping Allocate(GuestOffset guest, int length)
    {
        _gate.AssertHeld();
        length = (int)Math.Min(length, _geometry.BytesToSliceEnd(guest));
        while (true)
        {
            using CachedTable slice = GetSliceForWrite(guest);
            int free = (int)InFlight.Clip(guest, length);
            if (free == 0)
            {
                InFlight.WaitForOne();
                continue;
            }

            L2Entry first = L2Entry.Read(slice.Bytes, _geometry.IndexInSlice(guest), _geometry);
            return IsWritableInPlace(first)
                ? AllocateInPlace(slice.Bytes, guest, free)
                : AllocateNew(slice.Bytes, guest, free);
        }
    }

    /// <summary>Takes an allocation back that was not linked: its clusters are free again and waiters go on.</summary>
    public void Abort(ClusterAllocation allocation)
    {
        _gate.AssertHeld();
        try
        {
            if (!allocation.InPlace && !_geometry.DataIsExternal)
                _caches.Allocator.FreeUnlinked(allocation.Host, allocation.Clusters);
        }
        finally
        {
            End(allocation);
        }
    }

    private void End(ClusterAllocation allocation)
    {
        _caches.Epochs.Exit(allocation.Epoch);
        InFlight.Remove(allocation);
    }

    private bool IsWritableInPlace(L2Entry entry) => entry.IsCopied && entry.HasHostIn(_geometry);

    /// <summary>
    /// The host cluster is ours alone. Where all subclusters the request touches hold data, nothing changes but the
    /// data; else they become allocated.
    /// </summary>
    private WriteMapping AllocateInPlace(ReadOnlySpan<byte> slice, GuestOffset guest, int length)
    {
        HostOffset host = CheckedHost(L2Entry.Read(slice, _geometry.IndexInSlice(guest), _geometry), guest);
        bool normal = IsNormalIn(slice, guest, guest + length);
        int covered = 0;
        while (covered < length)
        {
            GuestOffset at = guest + covered;
            L2Entry entry = L2Entry.Read(slice, _geometry.IndexInSlice(at), _geometry);
            if (covered > 0
                && (!IsWritableInPlace(entry)
                    || CheckedHost(entry, at).Value != host.Value + (at - _geometry.ClusterStart(guest))
                    || IsNormalIn(slice, at, guest + length) != normal))
                break;
            covered = (int)Math.Min(length, covered + _geometry.ClusterSize - _geometry.InCluster(at));
        }

        if (!_geometry.DataIsExternal)
            _caches.Guard.CheckData(host, _geometry.InCluster(guest) + covered, guest);
        if (normal)
        {
            return new WriteMapping(
                covered, host + _geometry.InCluster(guest), Allocation: null, _caches.Epochs.Enter());
        }

        ClusterAllocation allocation = Begin(guest, covered);
        allocation.InPlace = true;
        allocation.Host = host;
        GuestOffset last = guest + (covered - 1L);
        allocation.CowStart = TypeAt(slice, guest) == SubclusterType.Normal
            ? guest : new GuestOffset(_geometry.RoundDownToSubcluster(guest.Value));
        allocation.CowEnd = TypeAt(slice, last) == SubclusterType.Normal
            ? allocation.RequestEnd : new GuestOffset(_geometry.RoundUpToSubcluster(allocation.RequestEnd.Value));
        return new WriteMapping(covered, allocation.HostOf(guest), allocation, allocation.Epoch);
    }

    /// <summary>Clusters that need a new place: unallocated, zero without a cluster, compressed, or shared.</summary>
    private WriteMapping AllocateNew(ReadOnlySpan<byte> slice, GuestOffset guest, int length)
    {
        if (!_geometry.DataIsExternal)
        {
            length = (int)Math.Min(
                length, ((long)_caches.Allocator.UsualRunMax << _geometry.ClusterBits) - _geometry.InCluster(guest));
        }

        int covered = 0;
        while (covered < length)
        {
            GuestOffset at = guest + covered;
            L2Entry entry = L2Entry.Read(slice, _geometry.IndexInSlice(at), _geometry);
            if (IsWritableInPlace(entry))
                break;
            TypeOf(entry, 0, at);
            covered = (int)Math.Min(length, covered + _geometry.ClusterSize - _geometry.InCluster(at));
        }

        ClusterAllocation allocation = Begin(guest, covered);
        allocation.CowStart = HeadStart(slice, guest);
        allocation.CowEnd = TailEnd(slice, allocation.RequestEnd);
        try
        {
            // The allocation is in flight already: the gate may be released while refcounts are loaded.
            AllocatedRun run = _geometry.DataIsExternal
                ? new AllocatedRun(new HostOffset(allocation.Start.Value), IsVirgin: false)
                : _caches.Allocator.Allocate(allocation.Clusters);
            allocation.Host = run.Start;
            allocation.IsVirgin = run.IsVirgin;
        }
        catch
        {
            End(allocation);
            throw;
        }

        return new WriteMapping(covered, allocation.HostOf(guest), allocation, allocation.Epoch);
    }

    private ClusterAllocation Begin(GuestOffset guest, int length)
    {
        ClusterAllocation allocation = InFlight.Add();
        allocation.Start = _geometry.ClusterStart(guest);
        allocation.End = new GuestOffset(_geometry.RoundUpToCluster(guest.Value + length));
        allocation.Clusters = (int)((allocation.End - allocation.Start) >> _geometry.ClusterBits);
        allocation.RequestStart = guest;
        allocation.RequestEnd = guest + length;
        allocation.InPlace = false;
        allocation.IsVirgin = false;
        allocation.Descriptor = 0;
        allocation.Epoch = _caches.Epochs.Enter();
        return allocation;
    }

    /// <summary>
    /// Where the copied head of a new cluster begins. The leading run of subclusters that hold no data keeps its
    /// state; from the first one with data on everything up to the request is copied, holes included.
    /// </summary>
    private GuestOffset HeadStart(ReadOnlySpan<byte> slice, GuestOffset guest)
    {
        L2Entry entry = L2Entry.Read(slice, _geometry.IndexInSlice(guest), _geometry);
        int own = _geometry.SubclusterIndex(guest);
        GuestOffset cluster = _geometry.ClusterStart(guest);
        if (entry.IsCompressed)
            return cluster;
        int first = 0;
        while (first < own && entry.TypeOf(first, _geometry) != SubclusterType.Normal)
            first++;
        return cluster + ((long)first << _geometry.SubclusterBits);
    }

    /// <summary>Where the copied tail of a new cluster ends; the mirror image of the head.</summary>
    private GuestOffset TailEnd(ReadOnlySpan<byte> slice, GuestOffset requestEnd)
    {
        GuestOffset lastByte = requestEnd + -1;
        L2Entry entry = L2Entry.Read(slice, _geometry.IndexInSlice(lastByte), _geometry);
        GuestOffset cluster = _geometry.ClusterStart(lastByte);
        if (entry.IsCompressed)
            return cluster + _geometry.ClusterSize;
        int own = _geometry.SubclusterIndex(lastByte);
        int last = _geometry.Subclusters - 1;
        while (last > own && entry.TypeOf(last, _geometry) != SubclusterType.Normal)
            last--;
        return cluster + ((last + 1L) << _geometry.SubclusterBits);
    }

    private SubclusterType TypeAt(ReadOnlySpan<byte> slice, GuestOffset guest) =>
        TypeOf(L2Entry.Read(slice, _geometry.IndexInSlice(guest), _geometry), _geometry.SubclusterIndex(guest), guest);

    /// <summary>
    /// Whether every subcluster of the cluster of <paramref name="guest"/> between it and <paramref name="end"/> holds
    /// data.
    /// </summary>
    private bool IsNormalIn(ReadOnlySpan<byte> slice, GuestOffset guest, GuestOffset end)
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
}
