// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>
/// Reference counts of host clusters: refcount table in memory, refcount blocks in slices through a cache;
/// specification section "Host cluster management".
/// </summary>
/// <remarks>
/// All methods are called with the image's gate held and release it while they load a slice. What the blocks hold in
/// memory may be written at any time: increments come before the references they are for, and decrements only after
/// the removal of a reference is durable (<see cref="MetadataFlush"/>).
/// </remarks>
internal sealed class Refcounts
{
    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly TableCache _cache;
    private ResidentTable _table;

    public Refcounts(BlockDevice file, Qcow2Geometry geometry, ResidentTable table, TableCache cache)
    {
        _file = file;
        _geometry = geometry;
        _table = table;
        _cache = cache;
    }

    /// <summary>Remembers which clusters are counted once more, while somebody looks at the image; else null.</summary>
    public AllocationLog? Log { get; set; }

    /// <summary>Says that the refcount table has moved to a larger place.</summary>
    public void ReplaceTable(ResidentTable table) => _table = table;

    /// <summary>Clusters that the present refcount table can count.</summary>
    public long ClustersMax => (long)_table.Count << _geometry.RefcountBlockBits;

    /// <summary>The largest refcount the width can hold.</summary>
    public ulong RefcountMax => RefcountField.Max(_geometry.RefcountOrder);

    /// <summary>The refcount of a cluster; 0 where no refcount block counts it.</summary>
    public ulong Get(long cluster)
    {
        if (!HasBlock(cluster))
            return 0;
        using CachedTable slice = GetSlice(cluster);
        return RefcountField.Read(slice.Bytes, IndexInSlice(cluster), _geometry.RefcountOrder);
    }

    /// <summary>Whether a refcount block exists for the cluster.</summary>
    public bool HasBlock(long cluster) => BlockOffset(cluster) != 0;

    /// <summary>
    /// Registers the zeroed cluster <paramref name="cluster"/> as the refcount block of the range it lies in, itself
    /// counted once. Nothing on disk points at it before the next flush.
    /// </summary>
    public void AddBlock(long cluster)
    {
        // Loaded first: if that fails, nothing may lead to a block that does not count itself.
        long block = cluster << _geometry.ClusterBits;
        using CachedTable slice = _cache.Get(block + SliceOffset(cluster));
        _table[cluster >> _geometry.RefcountBlockBits] = (ulong)block;
        RefcountField.Write(slice.Modify(), IndexInSlice(cluster), _geometry.RefcountOrder, 1);
        Log?.Add(cluster, 1);
    }

    /// <summary>
    /// Registers the zeroed cluster <paramref name="block"/>, which is durably counted elsewhere, as the refcount block
    /// of the range that <paramref name="cluster"/> lies in.
    /// </summary>
    public void AddBlock(long cluster, long block) =>
        _table[cluster >> _geometry.RefcountBlockBits] = (ulong)block << _geometry.ClusterBits;

    /// <summary>Adds one reference to each of <paramref name="count"/> clusters that have a refcount block.</summary>
    public void Increment(long cluster, int count)
    {
        Log?.Add(cluster, count);
        for (int i = 0; i < count; i++)
            Change(cluster + i, increment: true);
    }

    /// <summary>Removes one reference; returns what is left.</summary>
    public ulong Decrement(long cluster) => Change(cluster, increment: false);

    /// <summary>
    /// Counts how many clusters from <paramref name="cluster"/> on are free, within one slice and at most
    /// <paramref name="limit"/>; and how many used ones come first, if the first is used.
    /// </summary>
    public (int Free, int Used) ScanSlice(long cluster, int limit)
    {
        using CachedTable slice = GetSlice(cluster);
        ReadOnlySpan<byte> bytes = slice.Bytes;
        int first = IndexInSlice(cluster);
        int end = (int)Math.Min(_geometry.RefcountSliceEntries, (long)first + limit);
        int order = _geometry.RefcountOrder;
        int index = first;
        while (index < end && RefcountField.Read(bytes, index, order) == 0)
            index++;
        if (index > first)
            return (index - first, 0);
        while (index < _geometry.RefcountSliceEntries && RefcountField.Read(bytes, index, order) != 0)
            index++;
        return (0, index - first);
    }

    private ulong Change(long cluster, bool increment)
    {
        using CachedTable slice = GetSlice(cluster);
        int index = IndexInSlice(cluster);
        ulong old = RefcountField.Read(slice.Bytes, index, _geometry.RefcountOrder);
        if (increment ? old == RefcountMax : old == 0)
            throw Corrupt(
                $"the refcount of cluster {cluster} is {old} and cannot be {(increment ? "raised" : "lowered")}");
        ulong changed = increment ? old + 1 : old - 1;
        RefcountField.Write(slice.Modify(), index, _geometry.RefcountOrder, changed);
        return changed;
    }

    private CachedTable GetSlice(long cluster)
    {
        ulong block = BlockOffset(cluster);
        if (block == 0)
            throw Corrupt($"no refcount block counts cluster {cluster}");
        return _cache.Get((long)block + SliceOffset(cluster));
    }

    /// <summary>Byte offset in the cluster's refcount block of the slice that counts it.</summary>
    private long SliceOffset(long cluster) => (cluster & ((1L << _geometry.RefcountBlockBits) - 1))
        / _geometry.RefcountSliceEntries * _geometry.SliceBytes;

    /// <summary>Table entries hold the offset in bits 9 to 63 ("Refcount table entry").</summary>
    private ulong BlockOffset(long cluster)
    {
        long index = cluster >> _geometry.RefcountBlockBits;
        if (index >= _table.Count)
            return 0;
        ulong block = _table[index] & ~511UL;
        if ((block & (ulong)_geometry.ClusterMask) != 0)
            throw Corrupt($"refcount block offset {block} is not aligned (refcount table index {index})");
        if (block > (ulong)Math.Max(0, _file.Length - _geometry.ClusterSize))
            throw Corrupt($"refcount block at {block} lies beyond the end of the file");
        return block;
    }

    private int IndexInSlice(long cluster) => (int)(cluster % _geometry.RefcountSliceEntries);

    private BlockException Corrupt(string reason) => new(BlockErrorKind.Corrupt, $"{_file.Name}: {reason}");
}
