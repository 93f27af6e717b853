// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>
/// Where compressed clusters are put: byte after byte into the same host clusters, which are allocated and counted
/// here. <see cref="PackedBytes"/> has them written.
/// </summary>
/// <remarks>
/// Every host cluster that an extent touches counts one reference for it ("Compressed Clusters Descriptor"). One
/// extent is packed at a time, allocation and write to the cache together, so that the cache sees one sequence although
/// the gate is released while refcounts are loaded.
/// </remarks>
internal sealed class PackedClusters
{
    /// <summary>An extent is shorter than a cluster, so it touches at most two.</summary>
    private const int TouchedMax = 2;

    /// <summary>
    /// How many clusters are kept free behind the one that is filled: one for so many that were filled, so that few are
    /// left partly filled, few are left unused at the end, and what was freed is used again.
    /// </summary>
    private const int FilledPerKept = 64;

    private const int KeptMax = 16;

    private readonly Qcow2Geometry _geometry;
    private readonly Refcounts _refcounts;
    private readonly ClusterAllocator _allocator;
    private readonly FreeHints _hints;
    private readonly PackedBytes _bytes;
    private readonly ImageGate _gate;
    private bool _busy;
    private long _filled;

    public PackedClusters(
        ImageCore image, Refcounts refcounts, ClusterAllocator allocator, FreeHints hints, PackedBytes bytes)
    {
        _geometry = image.Geometry;
        _refcounts = refcounts;
        _allocator = allocator;
        _hints = hints;
        _bytes = bytes;
        _gate = image.Gate;
    }

    /// <summary>
    /// Allocates room for compressed bytes, counts it, and has them written in their turn. The gate is held and
    /// released meanwhile.
    /// </summary>
    /// <param name="bytes">At least one, fewer than a cluster.</param>
    /// <param name="descriptor">The L2 descriptor of the extent.</param>
    /// <returns>False where the place has an offset that no descriptor can hold; nothing is allocated then.</returns>
    public bool TryPack(ReadOnlySpan<byte> bytes, out ulong descriptor)
    {
        _gate.AssertHeld();
        while (_busy)
            _gate.Wait();
        _busy = true;
        try
        {
            MakeRoom();
            HostOffset start = Place(bytes.Length);
            if (!CompressedExtent.TryEncode(start, bytes.Length, _geometry, out descriptor))
            {
                Release(start, bytes.Length);
                return false;
            }

            _bytes.Write(start, bytes);
            return true;
        }
        finally
        {
            _busy = false;
            _gate.PulseAll();
        }
    }

    /// <summary>Takes an extent back that was not linked; the gate is held.</summary>
    public void Unpack(ulong descriptor)
    {
        _gate.AssertHeld();
        CompressedExtent extent = CompressedExtent.Decode(descriptor, _geometry);
        Release(extent.Host, extent.BytesMax);
    }

    /// <summary>Nobody else takes room while an extent is packed, so what was made stays.</summary>
    private void MakeRoom()
    {
        _bytes.ThrowIfFailed();
        if (_bytes.HasRoom(TouchedMax))
            return;
        using (_gate.Release())
            _bytes.MakeRoom(TouchedMax);
    }

    /// <summary>
    /// Where the extent goes, counted: behind the last one if it fits there or the next cluster is the adjacent one;
    /// else to the start of that next cluster.
    /// </summary>
    private HostOffset Place(int length)
    {
        long end = _bytes.End;
        int room = (int)(-end & _geometry.ClusterMask);
        if (room == 0)
            return NextCluster();
        long cluster = end >> _geometry.ClusterBits;
        HostOffset next = default;
        bool crosses = length > room;
        if (crosses)
        {
            next = NextCluster();
            if (next.Value >> _geometry.ClusterBits != cluster + 1)
                return next;
        }

        if (TryCount(cluster, end, crosses, next))
            return new HostOffset(end);
        return crosses ? next : NextCluster();
    }

    /// <summary>
    /// The next cluster to fill. Those behind it are kept free, or any other allocation would leave the rest of this
    /// one empty.
    /// </summary>
    private HostOffset NextCluster()
    {
        _filled++;
        if (_allocator.TryAllocateReserved(out HostOffset start))
            return start;
        start = _allocator.Allocate(1, alsoReserved: true).Start;
        _allocator.Reserve(
            (start.Value >> _geometry.ClusterBits) + 1, (int)Math.Clamp(_filled / FilledPerKept, 1, KeptMax));
        return start;
    }

    /// <summary>
    /// Counts one more extent in the cluster that is being filled; false where it was given up meanwhile or counts as
    /// many as it can.
    /// </summary>
    private bool TryCount(long cluster, long end, bool crosses, HostOffset next)
    {
        try
        {
            // Loading the refcount releases the gate; once it is there, nothing comes between it and the increment.
            ulong count = _refcounts.Get(cluster);
            if (_bytes.End != end || count == 0 || count >= _refcounts.RefcountMax)
                return false;
            _refcounts.Increment(cluster, 1);
            return true;
        }
        catch
        {
            if (crosses)
                _allocator.FreeUnlinked(next, 1);
            throw;
        }
    }

    private void Release(HostOffset host, int length)
    {
        long first = host.Value >> _geometry.ClusterBits;
        long last = (host.Value + length - 1) >> _geometry.ClusterBits;
        for (long cluster = first; cluster <= last; cluster++)
        {
            if (_refcounts.Get(cluster) == 1)
                _bytes.Forget(cluster);
            if (_refcounts.Decrement(cluster) == 0)
                _hints.NoteFree(cluster);
        }
    }
}
