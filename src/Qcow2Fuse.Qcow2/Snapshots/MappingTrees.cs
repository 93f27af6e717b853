// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Snapshots;

/// <summary>
/// Whole trees of an L1 table and its L2 tables: every host cluster one refers to is counted, given up, or has its
/// COPIED flag set right.
/// </summary>
/// <remarks>
/// <para>
/// L2 tables are read from the file, each by one request, so nothing of them may wait to be written: writes are held
/// back and everything was flushed before. Where flags change, the table is written and its cached slices dropped. One
/// table is in memory at a time.
/// </para>
/// <para>
/// All methods are called with the image's gate held and release it while they read or write, so that reads of guests
/// go on. L1 entries are numbers as <see cref="ResidentTable"/> gives them.
/// </para>
/// </remarks>
internal sealed class MappingTrees
{
    /// <summary>References given up that wait for a flush; bounds the memory the list of them takes.</summary>
    private const long PendingClustersMax = 1 << 20;

    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly ImageMetadata _metadata;
    private readonly ImageGate _gate;

    public MappingTrees(BlockDevice file, Qcow2Geometry geometry, ImageMetadata metadata, ImageGate gate)
    {
        _file = file;
        _geometry = geometry;
        _metadata = metadata;
        _gate = gate;
    }

    /// <summary>What a walk does with a run of host clusters; false ends the walk.</summary>
    private delegate bool RunVisitor(long firstCluster, int count, bool isTable);

    /// <summary>Reads the whole tree and throws where it is damaged; changes nothing.</summary>
    public void Validate(ReadOnlySpan<ulong> l1) => Walk(l1, static (_, _, _) => true);

    /// <summary>
    /// Adds one reference to everything the tree refers to. <paramref name="raised"/> counts the references added, also
    /// where an exception ends the walk; <see cref="Lower"/> takes that many back.
    /// </summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.TooLarge"/>: a refcount has no room for another
    /// reference. <see cref="BlockErrorKind.Corrupt"/>: a cluster is used and not counted.</exception>
    public void Raise(ReadOnlySpan<ulong> l1, ref long raised)
    {
        long done = 0;
        try
        {
            Walk(l1, (first, count, _) =>
            {
                for (int i = 0; i < count; i++)
                {
                    RaiseOne(first + i);
                    done++;
                }

                return true;
            });
        }
        finally
        {
            raised = done;
        }
    }

    /// <summary>Takes back the first <paramref name="raised"/> references that <see cref="Raise"/> added.</summary>
    public void Lower(ReadOnlySpan<ulong> l1, long raised)
    {
        long left = raised;
        Walk(l1, (first, count, _) =>
        {
            for (int i = 0; i < count && left > 0; i++, left--)
                _metadata.Refcounts.Decrement(first + i);
            return left > 0;
        });
    }

    /// <summary>
    /// Gives up one reference to everything the tree refers to. That nothing on disk reaches the tree any more is
    /// durable already. Flushes where much is waiting.
    /// </summary>
    public void Free(ReadOnlySpan<ulong> l1) => Walk(l1, (first, count, isTable) =>
    {
        var start = new HostOffset(first << _geometry.ClusterBits);
        _metadata.Frees.Add(start, count, _metadata.Epochs.Current, isTable);
        if (_metadata.Frees.PendingClusters > PendingClustersMax)
            _metadata.Flush.Run();
        return true;
    });

    /// <summary>Clears COPIED in all L2 entries; durable after the next flush.</summary>
    public void ClearCopied(ReadOnlySpan<ulong> l1)
    {
        using PooledBuffer buffer = BufferPool.Shared.Rent(_geometry.ClusterSize);
        foreach (ulong entry in l1)
        {
            HostOffset table = TableOf(entry);
            if (table.Value == 0)
                continue;
            ReadTable(table, buffer.Span);
            bool changed = false;
            for (int i = 0; i < buffer.Span.Length; i += _geometry.L2EntryBytes)
            {
                // The flag is the first bit of an entry; compressed descriptors never have it.
                changed |= (buffer.Span[i] & 0x80) != 0;
                buffer.Span[i] &= 0x7f;
            }

            if (changed)
                WriteTable(table, buffer.Span);
        }
    }

    /// <summary>
    /// Sets COPIED in the entries of the active L1 table and of its L2 tables exactly where the refcount is one;
    /// durable after the next flush. Tables that a snapshot shares keep theirs: all they refer to is shared too.
    /// </summary>
    public void SetCopiedInActive()
    {
        ResidentTable l1 = _metadata.Tables.L1;
        using PooledBuffer buffer = BufferPool.Shared.Rent(_geometry.ClusterSize);
        for (int i = 0; i < l1.Count; i++)
        {
            HostOffset table = TableOf(l1[i]);
            if (table.Value == 0)
                continue;
            bool isOwn = _metadata.Refcounts.Get(table.Value >> _geometry.ClusterBits) == 1;
            if (isOwn)
            {
                ReadTable(table, buffer.Span);
                if (SetCopied(buffer.Span))
                    WriteTable(table, buffer.Span);
            }

            ulong entry = (ulong)table.Value | (isOwn ? L1Entry.Copied : 0);
            if (l1[i] != entry)
                l1[i] = entry;
        }
    }

    private bool SetCopied(Span<byte> table)
    {
        bool changed = false;
        for (int i = 0; i < 1 << _geometry.L2Bits; i++)
        {
            L2Entry entry = L2Entry.Read(table, i, _geometry);
            if (!entry.HasHost)
                continue;
            bool isOwn = _metadata.Refcounts.Get(CheckedCluster(entry)) == 1;
            if (isOwn == entry.IsCopied)
                continue;
            ulong descriptor = isOwn ? entry.Descriptor | L2Entry.CopiedFlag : entry.Descriptor & ~L2Entry.CopiedFlag;
            new L2Entry(descriptor, entry.Bitmap).Write(table, i, _geometry);
            changed = true;
        }

        return changed;
    }

    /// <summary>
    /// Visits all that an L1 table refers to, always in the same order; each L2 table after what it refers to.
    /// </summary>
    private void Walk(ReadOnlySpan<ulong> l1, RunVisitor visit)
    {
        using PooledBuffer buffer = BufferPool.Shared.Rent(_geometry.ClusterSize);
        foreach (ulong entry in l1)
        {
            HostOffset table = TableOf(entry);
            if (table.Value == 0)
                continue;
            ReadTable(table, buffer.Span);
            if (!WalkTable(buffer.Span, visit)
                || !visit(table.Value >> _geometry.ClusterBits, 1, isTable: true))
                return;
        }
    }

    private bool WalkTable(ReadOnlySpan<byte> table, RunVisitor visit)
    {
        long first = 0;
        int count = 0;
        for (int i = 0; i < 1 << _geometry.L2Bits; i++)
        {
            L2Entry entry = L2Entry.Read(table, i, _geometry);
            if ((entry.Descriptor & ~L2Entry.ZeroFlag) == 0)
                continue;
            long cluster;
            int clusters = 1;
            if (entry.IsCompressed)
            {
                CompressedExtent extent = CompressedExtent.Decode(entry.Descriptor, _geometry);
                CheckPlace(extent.Host, extent.BytesMax);
                cluster = extent.Host.Value >> _geometry.ClusterBits;
                clusters = (int)(((extent.Host.Value + extent.BytesMax - 1) >> _geometry.ClusterBits) - cluster + 1);
            }
            else if (entry.HasHost)
            {
                cluster = CheckedCluster(entry);
            }
            else
            {
                continue;
            }

            if (count > 0 && first + count == cluster)
            {
                count += clusters;
                continue;
            }

            if (count > 0 && !visit(first, count, isTable: false))
                return false;
            (first, count) = (cluster, clusters);
        }

        return count == 0 || visit(first, count, isTable: false);
    }

    private void RaiseOne(long cluster)
    {
        ulong refcount = _metadata.Refcounts.Get(cluster);
        if (refcount == 0)
            throw Corrupt($"the cluster at {cluster << _geometry.ClusterBits} is used and has refcount 0");
        if (_geometry.RefcountBits < 64 && refcount == (1UL << _geometry.RefcountBits) - 1)
            throw new BlockException(BlockErrorKind.TooLarge,
                $"{_file.Name}: the cluster at {cluster << _geometry.ClusterBits} has {refcount} references, "
                + $"and refcounts of {_geometry.RefcountBits} bit{(_geometry.RefcountBits == 1 ? "" : "s")} "
                + "have no room for another snapshot's");
        _metadata.Refcounts.Increment(cluster, 1);
    }

    private HostOffset TableOf(ulong l1Entry)
    {
        long table = (long)(l1Entry & L1Entry.OffsetMask);
        if ((table & _geometry.ClusterMask) != 0)
            throw Corrupt($"L2 table offset {table} is not aligned");
        if (table > _file.Length - _geometry.ClusterSize)
            throw Corrupt($"L2 table at {table} lies beyond the end of the file");
        return new HostOffset(table);
    }

    private long CheckedCluster(L2Entry entry)
    {
        if ((entry.Host.Value & _geometry.ClusterMask) != 0)
            throw Corrupt($"host cluster offset {entry.Host.Value} is not aligned");
        CheckPlace(entry.Host, _geometry.ClusterSize);
        return entry.Host.Value >> _geometry.ClusterBits;
    }

    /// <summary>Refuses what cannot be guest data: who counts it would free it one day.</summary>
    private void CheckPlace(HostOffset host, long length)
    {
        if (host.Value >= _metadata.Allocator.UsedEnd)
            throw Corrupt($"the cluster at {host.Value} lies beyond the end of the file");
        _metadata.Guard.CheckData(host, length);
    }

    private void ReadTable(HostOffset table, Span<byte> bytes)
    {
        using (_gate.Release())
            _file.Read(table.Value, bytes);
    }

    private void WriteTable(HostOffset table, ReadOnlySpan<byte> bytes)
    {
        try
        {
            using (_gate.Release())
                _file.Write(table.Value, bytes);
        }
        finally
        {
            // Whether or not the write failed, what the cache holds may not be what the file holds any more.
            for (int offset = 0; offset < _geometry.ClusterSize; offset += _geometry.SliceBytes)
                _metadata.Tables.L2.Drop(table.Value + offset);
        }
    }

    private BlockException Corrupt(string reason) => new(BlockErrorKind.Corrupt, $"{_file.Name}: {reason}");
}
