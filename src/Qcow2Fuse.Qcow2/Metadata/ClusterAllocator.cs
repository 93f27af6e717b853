// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>A run of host clusters that was just allocated.</summary>
/// <param name="Start">Host offset of the first cluster.</param>
/// <param name="IsVirgin">Nothing was ever stored there: it lies beyond everything used so far and reads as
/// zeroes.</param>
internal readonly record struct AllocatedRun(HostOffset Start, bool IsVirgin);

/// <summary>
/// Hands out free host clusters, first fit from a hint that freeing lowers (<see cref="FreeHints"/>). A cluster is free
/// when its refcount in memory is zero; freed clusters keep theirs until their last reference is durably gone.
/// </summary>
/// <remarks>All methods are called with the image's gate held and may release it.</remarks>
internal sealed class ClusterAllocator
{
    /// <summary>Offsets in L1 and L2 entries end at bit 55.</summary>
    private const long HostBytesMax = 1L << 56;

    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly Refcounts _refcounts;
    private readonly OverlapGuard _guard;
    private readonly FreeHints _hints;
    private readonly MetadataFlush _flush;
    private readonly RefcountTableGrowth _growth;
    private readonly ImageGate _gate;
    private long _virginFrom;

    /// <summary>The free clusters that are kept, up to the end; none where the two are equal.</summary>
    private long _reserved;
    private long _reservedEnd;
    private bool _busy;

    /// <param name="image">The image.</param>
    /// <param name="refcounts">What counts clusters.</param>
    /// <param name="guard">Knows which clusters hold metadata.</param>
    /// <param name="hints">Where to look.</param>
    /// <param name="flush">Makes all metadata durable.</param>
    /// <param name="growth">Makes the refcount table larger, or throws <see cref="BlockErrorKind.NoSpace"/>.</param>
    public ClusterAllocator(
        ImageCore image, Refcounts refcounts, OverlapGuard guard, FreeHints hints, MetadataFlush flush,
        RefcountTableGrowth growth)
    {
        _file = image.File;
        _geometry = image.Geometry;
        _refcounts = refcounts;
        _guard = guard;
        _hints = hints;
        _flush = flush;
        _growth = growth;
        _gate = image.Gate;
        _virginFrom = _geometry.RoundUpToCluster(_file.Length);
    }

    /// <summary>
    /// Host offset behind all that the file held when it was opened and that was handed out since. Compressed clusters
    /// may not have reached the file yet, so its length tells less.
    /// </summary>
    public long UsedEnd => _virginFrom;

    /// <summary>
    /// Clusters that are free together in a range of one refcount block that counts itself. Longer runs need more work
    /// and are for tables only.
    /// </summary>
    public int UsualRunMax => (1 << _geometry.RefcountBlockBits) - 1;

    /// <summary>Allocates <paramref name="count"/> adjacent clusters, each with refcount 1.</summary>
    /// <param name="count">How many.</param>
    /// <param name="alsoReserved">The clusters that are kept may be among them, and are kept no more.</param>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.NoSpace"/> when the refcount table can count no more clusters.
    /// </exception>
    public AllocatedRun Allocate(int count, bool alsoReserved = false)
    {
        _gate.AssertHeld();
        // Scanning and counting load slices and release the gate for that; one allocation at a time keeps a cluster
        // that was found free from being found again before it is counted.
        while (_busy)
            _gate.Wait();
        _busy = true;
        try
        {
            if (alsoReserved)
                Reserve(0, 0);
            long from = _hints.BeginSearch(isForOne: count == 1);
            long first = FindRun(count, from, out bool hasSkipped);
            _guard.CheckFree(first, count);
            _refcounts.Increment(first, count);
            _hints.EndSearch(from, first + count, isForOne: count == 1, hasSkipped);
            long start = first << _geometry.ClusterBits;
            long end = start + ((long)count << _geometry.ClusterBits);
            bool virgin = start >= _virginFrom;
            _virginFrom = Math.Max(_virginFrom, end);
            return new AllocatedRun(new HostOffset(start), virgin);
        }
        finally
        {
            _busy = false;
            _gate.PulseAll();
        }
    }

    /// <summary>
    /// Keeps clusters from being handed out by <see cref="Allocate"/>, so that whoever fills the cluster before them
    /// can go on there. Nothing is counted for them, so nothing of it is on disk. Those kept before are kept no more.
    /// </summary>
    public void Reserve(long first, int count)
    {
        _gate.AssertHeld();
        if (_reserved < _reservedEnd)
            _hints.NoteFree(_reserved);
        _reserved = first;
        _reservedEnd = first + count;
    }

    /// <summary>
    /// Allocates the first of the clusters that are kept, with refcount 1; false where there is none or it is not free.
    /// </summary>
    public bool TryAllocateReserved(out HostOffset start)
    {
        _gate.AssertHeld();
        while (_busy)
            _gate.Wait();
        _busy = true;
        try
        {
            long cluster = _reserved;
            start = new HostOffset(cluster << _geometry.ClusterBits);
            if (cluster >= _reservedEnd || !_refcounts.HasBlock(cluster)
                || cluster >= HostBytesMax >> _geometry.ClusterBits || _refcounts.Get(cluster) != 0)
                return false;
            _guard.CheckFree(cluster, 1);
            _refcounts.Increment(cluster, 1);
            _reserved++;
            _virginFrom = Math.Max(_virginFrom, start.Value + _geometry.ClusterSize);
            return true;
        }
        finally
        {
            _busy = false;
            _gate.PulseAll();
        }
    }

    /// <summary>Takes back clusters that no table ever referred to.</summary>
    public void FreeUnlinked(HostOffset start, int count)
    {
        _gate.AssertHeld();
        long first = start.Value >> _geometry.ClusterBits;
        for (int i = 0; i < count; i++)
            _refcounts.Decrement(first + i);
        _hints.NoteFree(first);
    }

    private long FindRun(int count, long from, out bool hasSkipped)
    {
        long cluster = from;
        long first = cluster;
        int found = 0;
        hasSkipped = false;
        while (found < count)
        {
            if (cluster >= _reserved && cluster < _reservedEnd)
            {
                first = cluster = _reservedEnd;
                found = 0;
                hasSkipped = true;
            }

            if (cluster >= _refcounts.ClustersMax || cluster >= HostBytesMax >> _geometry.ClusterBits)
            {
                if (!TryGrowTable(cluster))
                {
                    // Where no other is left, none is kept any more.
                    cluster = first = Math.Min(from, _reserved);
                    found = 0;
                    _reservedEnd = _reserved;
                    continue;
                }

                _virginFrom = Math.Max(_virginFrom, _geometry.RoundUpToCluster(_file.Length));
            }

            if (!_refcounts.HasBlock(cluster))
            {
                hasSkipped |= found > 0;
                cluster = count > UsualRunMax ? CreateBlocks(cluster, count) : CreateBlock(cluster);
                first = cluster;
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
                hasSkipped |= found > 0;
                first = cluster;
                found = 0;
            }
        }

        return first;
    }

    /// <summary>
    /// Makes room in the refcount table for <paramref name="cluster"/>; false where there is none but clusters are
    /// kept that can be used instead.
    /// </summary>
    private bool TryGrowTable(long cluster)
    {
        try
        {
            if (cluster >= HostBytesMax >> _geometry.ClusterBits)
                throw new BlockException(BlockErrorKind.NoSpace,
                    $"{_file.Name}: no offset is left for another cluster ({cluster} clusters)");
            _growth.Grow();
            return true;
        }
        catch (BlockException e) when (e.Kind == BlockErrorKind.NoSpace && _reserved < _reservedEnd)
        {
            return false;
        }
    }

    /// <summary>
    /// Makes a cluster without a refcount block the block of its range. All clusters of such a range are free, and a
    /// block that counts itself depends on no other block being durable first.
    /// </summary>
    /// <returns>The cluster behind it.</returns>
    private long CreateBlock(long cluster)
    {
        ZeroForBlock(cluster, 1);
        _refcounts.AddBlock(cluster);
        GuardBlocks(cluster, 1);
        return cluster + 1;
    }

    /// <summary>
    /// Creates so many blocks, one behind the other, that <paramref name="count"/> clusters fit between the last of
    /// them and the end of what they count. The first counts itself and as many others as it can, and so on: they
    /// become blocks only once that is durable.
    /// </summary>
    /// <returns>The cluster behind them.</returns>
    private long CreateBlocks(long cluster, int count)
    {
        int perBlock = 1 << _geometry.RefcountBlockBits;
        int blocks = 1;
        while ((long)blocks * perBlock < (long)count + blocks + perBlock)
            blocks++;
        while (cluster + ((long)blocks * perBlock) > _refcounts.ClustersMax)
        {
            // The table moves to the first clusters it could not count, which may be among those wanted here.
            _growth.Grow();
            if (_refcounts.HasBlock(cluster))
                return cluster;
        }

        for (int i = 1; i < blocks; i++)
        {
            if (_refcounts.HasBlock(cluster + ((long)i * perBlock)))
                return CreateBlock(cluster);
        }

        ZeroForBlock(cluster, blocks);
        _refcounts.AddBlock(cluster);
        GuardBlocks(cluster, 1);
        for (int known = 1; known < blocks;)
        {
            // What is known counts so many of the others.
            int counted = (int)Math.Min(blocks, (long)known * perBlock);
            _refcounts.Increment(cluster + known, counted - known);
            _flush.Run();
            for (int i = known; i < counted; i++)
                _refcounts.AddBlock(cluster + ((long)i * perBlock), cluster + i);
            GuardBlocks(cluster + known, counted - known);
            known = counted;
        }

        return cluster + blocks;
    }

    private void ZeroForBlock(long cluster, int count)
    {
        long offset = cluster << _geometry.ClusterBits;
        long length = (long)count << _geometry.ClusterBits;
        _guard.CheckFree(cluster, count);
        _file.WriteZeroes(offset, length, mayUnmap: false);
        _virginFrom = Math.Max(_virginFrom, offset + length);
    }

    /// <summary>From here on nothing else may be written there.</summary>
    private void GuardBlocks(long cluster, int count) => _guard.Add(
        new HostOffset(cluster << _geometry.ClusterBits), (long)count << _geometry.ClusterBits,
        MetadataKind.RefcountBlock);
}
