// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// Where writes go: in place, into reserved subclusters, or into new clusters; and publishing of what was written.
/// </summary>
/// <remarks>
/// <para>
/// A write asks <see cref="Allocate"/> where its data goes, writes it, and then publishes it by <see cref="Link"/>:
/// never the other way round. Between the two the allocation is in flight and keeps others away from its clusters; on a
/// failure <see cref="Abort"/> takes it back.
/// </para>
/// <para>
/// Every method is called with the image's gate held exactly once and may release it while a table is loaded.
/// </para>
/// </remarks>
internal sealed class ClusterAllocations
{
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly ClusterAllocator _allocator;
    private readonly OverlapGuard _guard;
    private readonly OperationEpochs _epochs;
    private readonly CheckedEntries _entries;
    private readonly ReplacedEntries _replaced;
    private readonly InFlightAllocations _inFlight;
    private readonly WritableTables _tables;

    public ClusterAllocations(
        ImageCore image, ImageMetadata metadata, CheckedEntries entries, ReplacedEntries replaced,
        InFlightAllocations inFlight, WritableTables tables)
    {
        _geometry = image.Geometry;
        _gate = image.Gate;
        _allocator = metadata.Allocator;
        _guard = metadata.Guard;
        _epochs = metadata.Epochs;
        _entries = entries;
        _replaced = replaced;
        _inFlight = inFlight;
        _tables = tables;
    }

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
            using CachedTable slice = _tables.GetSliceForWrite(guest);
            int free = (int)_inFlight.Clip(guest, length);
            if (free == 0)
            {
                _inFlight.WaitForOne();
                continue;
            }

            L2Entry first = L2Entry.Read(slice.Bytes, _geometry.IndexInSlice(guest), _geometry);
            return _entries.IsWritableInPlace(first)
                ? AllocateInPlace(slice.Bytes, guest, free)
                : AllocateNew(slice.Bytes, guest, free);
        }
    }

    /// <summary>
    /// Makes the L2 entries point at an allocation whose data has been written, frees what they pointed at before, and
    /// wakes whoever waits for it. On an exception the allocation is still in flight.
    /// </summary>
    public void Link(ClusterAllocation allocation)
    {
        _gate.AssertHeld();
        using (CachedTable slice = _tables.GetSliceForWrite(allocation.Start, isInFlight: true))
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
                    _replaced.Release(old);
            }
        }

        _inFlight.End(allocation);
    }

    /// <summary>Takes an allocation back that was not linked: its clusters are free again and waiters go on.</summary>
    public void Abort(ClusterAllocation allocation)
    {
        _gate.AssertHeld();
        try
        {
            if (!allocation.InPlace && !_geometry.DataIsExternal)
                _allocator.FreeUnlinked(allocation.Host, allocation.Clusters);
        }
        finally
        {
            _inFlight.End(allocation);
        }
    }

    /// <summary>
    /// The host cluster is ours alone. Where all subclusters the request touches hold data, nothing changes but the
    /// data; else they become allocated.
    /// </summary>
    private WriteMapping AllocateInPlace(ReadOnlySpan<byte> slice, GuestOffset guest, int length)
    {
        HostOffset host = _entries.CheckedHost(L2Entry.Read(slice, _geometry.IndexInSlice(guest), _geometry), guest);
        bool normal = _entries.IsNormalIn(slice, guest, guest + length);
        int covered = 0;
        while (covered < length)
        {
            GuestOffset at = guest + covered;
            L2Entry entry = L2Entry.Read(slice, _geometry.IndexInSlice(at), _geometry);
            if (covered > 0
                && (!_entries.IsWritableInPlace(entry)
                    || _entries.CheckedHost(entry, at).Value != host.Value + (at - _geometry.ClusterStart(guest))
                    || _entries.IsNormalIn(slice, at, guest + length) != normal))
                break;
            covered = (int)Math.Min(length, covered + _geometry.ClusterSize - _geometry.InCluster(at));
        }

        if (!_geometry.DataIsExternal)
            _guard.CheckData(host, _geometry.InCluster(guest) + covered, guest);
        if (normal)
        {
            return new WriteMapping(
                covered, host + _geometry.InCluster(guest), Allocation: null, _epochs.Enter());
        }

        ClusterAllocation allocation = _inFlight.Begin(guest, covered);
        allocation.InPlace = true;
        allocation.Host = host;
        GuestOffset last = guest + (covered - 1L);
        allocation.CowStart = _entries.TypeAt(slice, guest) == SubclusterType.Normal
            ? guest : new GuestOffset(_geometry.RoundDownToSubcluster(guest.Value));
        allocation.CowEnd = _entries.TypeAt(slice, last) == SubclusterType.Normal
            ? allocation.RequestEnd : new GuestOffset(_geometry.RoundUpToSubcluster(allocation.RequestEnd.Value));
        return new WriteMapping(covered, allocation.HostOf(guest), allocation, allocation.Epoch);
    }

    /// <summary>Clusters that need a new place: unallocated, zero without a cluster, compressed, or shared.</summary>
    private WriteMapping AllocateNew(ReadOnlySpan<byte> slice, GuestOffset guest, int length)
    {
        if (!_geometry.DataIsExternal)
        {
            length = (int)Math.Min(
                length, ((long)_allocator.UsualRunMax << _geometry.ClusterBits) - _geometry.InCluster(guest));
        }

        int covered = 0;
        while (covered < length)
        {
            GuestOffset at = guest + covered;
            L2Entry entry = L2Entry.Read(slice, _geometry.IndexInSlice(at), _geometry);
            if (_entries.IsWritableInPlace(entry))
                break;
            _entries.TypeOf(entry, 0, at);
            covered = (int)Math.Min(length, covered + _geometry.ClusterSize - _geometry.InCluster(at));
        }

        ClusterAllocation allocation = _inFlight.Begin(guest, covered);
        allocation.CowStart = HeadStart(slice, guest);
        allocation.CowEnd = TailEnd(slice, allocation.RequestEnd);
        try
        {
            // The allocation is in flight already: the gate may be released while refcounts are loaded.
            AllocatedRun run = _geometry.DataIsExternal
                ? new AllocatedRun(new HostOffset(allocation.Start.Value), IsVirgin: false)
                : _allocator.Allocate(allocation.Clusters);
            allocation.Host = run.Start;
            allocation.IsVirgin = run.IsVirgin;
        }
        catch
        {
            _inFlight.End(allocation);
            throw;
        }

        return new WriteMapping(covered, allocation.HostOf(guest), allocation, allocation.Epoch);
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

    /// <summary>What the entry of a cluster becomes.</summary>
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
            _replaced.CheckReleasable(L2Entry.Read(slice.Bytes, index + i, _geometry), cluster);
        }
    }
}
