// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>Growing of the refcount table.</summary>
internal sealed class RefcountTableGrowth
{
    /// <summary>The limit QEMU has when it opens an image.</summary>
    private const long RefcountTableBytesMax = 8L << 20;

    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly MetadataTables _tables;
    private readonly Refcounts _refcounts;
    private readonly OverlapGuard _guard;
    private readonly DurableFile _durable;
    private readonly PendingFrees _frees;
    private readonly OperationEpochs _epochs;
    private readonly MetadataFlush _flush;

    public RefcountTableGrowth(
        ImageCore image, MetadataTables tables, Refcounts refcounts, OverlapGuard guard, DurableFile durable,
        PendingFrees frees, OperationEpochs epochs, MetadataFlush flush)
    {
        _file = image.File;
        _geometry = image.Geometry;
        _tables = tables;
        _refcounts = refcounts;
        _guard = guard;
        _durable = durable;
        _frees = frees;
        _epochs = epochs;
        _flush = flush;
    }

    /// <summary>
    /// Moves the refcount table to a larger place. That lies right behind everything the old table can count, together
    /// with the refcount blocks that count it, so that nothing has to be allocated for it.
    /// </summary>
    /// <remarks>
    /// Blocks and table are durable before the header points at the table: either all of it is there or none. The gate
    /// is held and released. Called by the allocator, which lets nobody else allocate meanwhile.
    /// </remarks>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NoSpace"/> at the limit of 8 MiB.</exception>
    public void Grow()
    {
        _flush.BeginExclusiveWhenClean(() => _tables.RefcountTable);
        try
        {
            Move(_tables.RefcountTable);
        }
        finally
        {
            _flush.EndExclusive();
        }
    }

    private void Move(ResidentTable old)
    {
        (int tableClusters, int blocks) = PlanGrowth(old.Count);
        long blocksStart = _refcounts.ClustersMax << _geometry.ClusterBits;
        long tableStart = blocksStart + ((long)blocks << _geometry.ClusterBits);
        ResidentTable larger = old.CopyTo(
            new HostOffset(tableStart), (int)(((long)tableClusters << _geometry.ClusterBits) / 8), isOwed: true);
        try
        {
            _guard.CheckFree(_refcounts.ClustersMax, blocks + tableClusters);
            WriteFirstBlocks(blocksStart, blocks, blocks + tableClusters);
            for (int i = 0; i < blocks; i++)
                larger[old.Count + i] = (ulong)(blocksStart + ((long)i << _geometry.ClusterBits));
            larger.WriteAll((long)tableClusters << _geometry.ClusterBits);
            _durable.Barrier();
            _durable.UpdateHeader(header => header with
            {
                RefcountTableOffset = tableStart,
                RefcountTableClusters = tableClusters,
            });
        }
        catch
        {
            larger.Dispose();
            throw;
        }

        _guard.Add(new HostOffset(blocksStart), (long)blocks << _geometry.ClusterBits, MetadataKind.RefcountBlock);
        _guard.Add(larger.Offset, larger.Count * 8L, MetadataKind.RefcountTable);
        _frees.Add(old.Offset, (int)((old.Count * 8L) >> _geometry.ClusterBits), _epochs.Current, isTable: true);
        _refcounts.ReplaceTable(larger);
        _tables.ReplaceRefcountTable(larger);
    }

    /// <summary>
    /// Half as much again, at least a cluster more, and room for the blocks that count table and blocks.
    /// </summary>
    private (int TableClusters, int Blocks) PlanGrowth(int oldEntries)
    {
        long most = RefcountTableBytesMax >> _geometry.ClusterBits;
        long old = (oldEntries * 8L) >> _geometry.ClusterBits;
        long table = Math.Min(most, Math.Max(old + 1, old * 3 / 2));
        if (table <= old)
            throw new BlockException(BlockErrorKind.NoSpace,
                $"{_file.Name}: the refcount table has reached its limit ({_refcounts.ClustersMax} clusters)");
        long blocks = 1;
        while (blocks << _geometry.RefcountBlockBits < table + blocks)
            blocks++;
        if (oldEntries + blocks > (table << _geometry.ClusterBits) / 8)
            throw new BlockException(BlockErrorKind.NoSpace,
                $"{_file.Name}: the refcount table cannot grow beyond {_refcounts.ClustersMax} clusters");
        return ((int)table, (int)blocks);
    }

    /// <summary>Writes blocks in which the first <paramref name="used"/> clusters count once.</summary>
    private void WriteFirstBlocks(long start, int blocks, int used)
    {
        using PooledBuffer block = BufferPool.Shared.Rent(_geometry.ClusterSize);
        int perBlock = 1 << _geometry.RefcountBlockBits;
        for (int i = 0; i < blocks; i++)
        {
            block.Span.Clear();
            int counted = Math.Clamp(used - (i * perBlock), 0, perBlock);
            for (int index = 0; index < counted; index++)
                RefcountField.Write(block.Span, index, _geometry.RefcountOrder, 1);
            _file.Write(start + ((long)i << _geometry.ClusterBits), block.Span);
        }
    }
}
