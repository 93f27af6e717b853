// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Qcow2;

/// <summary>A run of host clusters that was just allocated.</summary>
/// <param name="Start">Host offset of the first cluster.</param>
/// <param name="IsVirgin">Nothing was ever stored there: it lies beyond everything used so far and reads as
/// zeroes.</param>
internal readonly record struct AllocatedRun(HostOffset Start, bool IsVirgin);

/// <summary>
/// Hands out free host clusters, first fit from a hint that freeing lowers. A cluster is free when its refcount in
/// memory is zero; freed clusters keep theirs until their last reference is durably gone.
/// </summary>
/// <remarks>All methods are called with the image's gate held and may release it.</remarks>
internal sealed class ClusterAllocator
{
    /// <summary>Offsets in L1 and L2 entries end at bit 55.</summary>
    private const long HostBytesMax = 1L << 56;

    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly Refcounts _refcounts;
    private readonly object _gate;
    private long _hint;
    private long _virginFrom;
    private long _reserved;
    private long _reservedEnd;
    private bool _busy;

    public ClusterAllocator(BlockDevice file, Qcow2Geometry geometry, Refcounts refcounts, object gate)
    {
        _file = file;
        _geometry = geometry;
        _refcounts = refcounts;
        _gate = gate;
        _virginFrom = geometry.RoundUpToCluster(file.Length);
    }

    /// <summary>Allocates <paramref name="count"/> adjacent clusters, each with refcount 1.</summary>
    /// <param name="count">How many.</param>
    /// <param name="alsoReserved">The clusters that are kept may be among them, and are kept no more.</param>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.NoSpace"/> when the refcount table can count no more clusters.
    /// </exception>
    public AllocatedRun Allocate(int count, bool alsoReserved = false)
    {
        // Scanning and counting load slices and release the gate for that; one allocation at a time keeps a cluster
        // that was found free from being found again before it is counted.
        while (_busy)
            Monitor.Wait(_gate);
        _busy = true;
        try
        {
            if (alsoReserved)
                Reserve(0, 0);
            long hint = _hint;
            long first = FindRun(count);
            _refcounts.Increment(first, count);

            // What was freed meanwhile is looked at next.
            if (_hint >= hint)
                _hint = first + count;
            long start = first << _geometry.ClusterBits;
            long end = start + ((long)count << _geometry.ClusterBits);
            bool virgin = start >= _virginFrom;
            _virginFrom = Math.Max(_virginFrom, end);
            return new AllocatedRun(new HostOffset(start), virgin);
        }
        finally
        {
            _busy = false;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>
    /// Keeps clusters from being handed out by <see cref="Allocate"/>, so that whoever fills the cluster before them
    /// can go on there. Nothing is counted for them, so nothing of it is on disk. Those kept before are kept no more.
    /// </summary>
    public void Reserve(long first, int count)
    {
        if (_reserved < _reservedEnd)
            NoteFree(_reserved);
        _reserved = first;
        _reservedEnd = first + count;
    }

    /// <summary>
    /// Allocates the first of the clusters that are kept, with refcount 1; false where there is none or it is not free.
    /// </summary>
    public bool TryAllocateReserved(out HostOffset start)
    {
        while (_busy)
            Monitor.Wait(_gate);
        _busy = true;
        try
        {
            long cluster = _reserved;
            start = new HostOffset(cluster << _geometry.ClusterBits);
            if (cluster >= _reservedEnd || !_refcounts.HasBlock(cluster)
                || cluster >= HostBytesMax >> _geometry.ClusterBits || _refcounts.Get(cluster) != 0)
                return false;
            _refcounts.Increment(cluster, 1);
            _reserved++;
            _virginFrom = Math.Max(_virginFrom, start.Value + _geometry.ClusterSize);
            return true;
        }
        finally
        {
            _busy = false;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Takes back clusters that no table ever referred to.</summary>
    public void FreeUnlinked(HostOffset start, int count)
    {
        long first = start.Value >> _geometry.ClusterBits;
        for (int i = 0; i < count; i++)
            _refcounts.Decrement(first + i);
        NoteFree(first);
    }

    /// <summary>Says that the refcount of <paramref name="cluster"/> has become zero.</summary>
    public void NoteFree(long cluster) => _hint = Math.Min(_hint, cluster);

    private long FindRun(int count)
    {
        long cluster = _hint;
        long first = cluster;
        int found = 0;
        while (found < count)
        {
            if (cluster >= _reserved && cluster < _reservedEnd)
            {
                first = cluster = _reservedEnd;
                found = 0;
            }

            if (cluster >= _refcounts.ClustersMax || cluster >= HostBytesMax >> _geometry.ClusterBits)
            {
                if (_reserved >= _reservedEnd)
                    throw new BlockException(BlockErrorKind.NoSpace,
                        $"{_file.Name}: the refcount table is full ({_refcounts.ClustersMax} clusters)");

                // Where no other is left, none is kept any more.
                cluster = first = Math.Min(_hint, _reserved);
                found = 0;
                _reservedEnd = _reserved;
                continue;
            }

            if (!_refcounts.HasBlock(cluster))
            {
                CreateBlock(cluster);
                first = ++cluster;
                found = 0;
                continue;
            }

            int limit = count - found;
            if (_reserved > cluster && _reserved < _reservedEnd)
                limit = (int)Math.Min(limit, _reserved - cluster);
            (int free, int used) = _refcounts.ScanSlice(cluster, limit);
            cluster += free + used;
            found += free;
            if (used > 0)
            {
                first = cluster;
                found = 0;
            }
        }

        return first;
    }

    /// <summary>
    /// Makes a cluster without a refcount block the block of its range. All clusters of such a range are free, and a
    /// block that counts itself depends on no other block being durable first.
    /// </summary>
    private void CreateBlock(long cluster)
    {
        long offset = cluster << _geometry.ClusterBits;
        _file.WriteZeroes(offset, _geometry.ClusterSize, mayUnmap: false);
        _virginFrom = Math.Max(_virginFrom, offset + _geometry.ClusterSize);
        _refcounts.AddBlock(cluster);
    }
}
