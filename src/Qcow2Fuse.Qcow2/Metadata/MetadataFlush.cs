// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>The order in which changes of metadata become durable, and who sees to it: one flush at a time.</summary>
/// <remarks>
/// <para>One flush, each arrow a flush of the file below:</para>
/// <code>
/// refcount blocks (→ refcount table entries of new blocks) , new L2 tables , guest data , packed clusters
///    → L2 slices that the disk already reaches , L1 entries
///       → references that are gone: punch the host clusters, lower their refcounts in memory
/// </code>
/// <para>
/// All tables are frozen at the same moment. An entry is linked only after its data was written, so the first flush of
/// the file covers the data of every entry frozen; entries linked later are not written by this flush. Refcounts are
/// raised before an entry is linked and lowered only after its removal is durable, so after a crash they are at most
/// too high: clusters leak, none is lost. Where a freed cluster was in use by an operation under way, it is kept until
/// that has ended (<see cref="OperationEpochs"/>).
/// </para>
/// <para>All methods are called with the image's gate held; those that flush or wait release it meanwhile.</para>
/// </remarks>
internal sealed class MetadataFlush
{
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly CorruptMark _corrupt;
    private readonly MetadataTables _tables;
    private readonly DurableFile _durable;
    private readonly PackedBytes? _packed;
    private readonly PendingFrees _frees;
    private readonly ClusterFreeing _freeing;
    private readonly Func<long, bool> _isPublishing;
    private HashSet<long> _newTables = [];
    private HashSet<long> _publishing = [];
    private bool _isLazy;
    private int _needExactRefcounts;
    private bool _running;
    private long _started;
    private long _completed;

    public MetadataFlush(
        ImageCore image, MetadataTables tables, DurableFile durable, PackedBytes? packed, PendingFrees frees,
        ClusterFreeing freeing)
    {
        _geometry = image.Geometry;
        _gate = image.Gate;
        _corrupt = image.Corrupt;
        _tables = tables;
        _durable = durable;
        _packed = packed;
        _frees = frees;
        _freeing = freeing;
        _isPublishing = offset => _publishing.Contains(offset & ~_geometry.ClusterMask);
    }

    /// <summary>The flush that makes durable what is changed now.</summary>
    public long Next => _started + 1;

    /// <summary>The last flush that completed.</summary>
    public long Completed => _completed;

    /// <summary>
    /// Says that the L2 table at <paramref name="table"/> is new: nothing on disk reaches it before its L1 entry is
    /// written, so its slices need not wait for their data.
    /// </summary>
    public void AddNewTable(HostOffset table) => _newTables.Add(table.Value);

    /// <summary>
    /// Leaves refcounts in memory from now on: the image is durably marked dirty, so that whoever opens it after a
    /// crash counts anew (specification section "Header", lazy refcounts).
    /// </summary>
    public void BeginLazy() => _isLazy = true;

    /// <summary>
    /// Makes everything linked before the call durable. The gate is held and released meanwhile. Callers that arrive
    /// while a flush is under way share the next one.
    /// </summary>
    public void Run()
    {
        _gate.AssertHeld();
        long mine = _started + 1;
        while (_completed < mine)
        {
            _durable.ThrowIfFailed();
            if (_running)
                _gate.Wait();
            else
                RunOne(durable: true);
        }
    }

    /// <summary>
    /// Flushes and frees what waits for it, giving operations under way time to end; for where space has run out. The
    /// gate is held and released meanwhile.
    /// </summary>
    public void RunAndFree()
    {
        const int MillisecondsMax = 1000;
        _gate.AssertHeld();
        Run();
        for (int i = 0; i < MillisecondsMax && _frees.DurableCount > 0; i++)
        {
            _gate.Wait(milliseconds: 1);
            BeginExclusive();
            try
            {
                _freeing.FreeDurable();
            }
            finally
            {
                EndExclusive();
            }
        }
    }

    /// <summary>
    /// Makes everything durable, refcounts included, and whatever the first flush frees with a second one: a clean
    /// close leaves nothing behind. The gate is held and released meanwhile.
    /// </summary>
    public void RunForClose()
    {
        _gate.AssertHeld();
        _isLazy = false;
        Run();
        if (HasMore)
            Run();
    }

    /// <summary>
    /// Writes all there is, lazy refcounts included, and frees what waits for it: nobody finds a contradiction in the
    /// file then. Guest writes are held back. The gate is held and released meanwhile.
    /// </summary>
    public void RunWhileHeld()
    {
        _gate.AssertHeld();
        bool wasLazy = _isLazy;
        _isLazy = false;
        try
        {
            RunAndFree();
            if (HasMore)
                Run();
        }
        finally
        {
            _isLazy = wasLazy;
        }
    }

    /// <summary>
    /// For the cache of L2 slices when all of them are dirty: writes them without making them durable. The gate is held
    /// and released meanwhile.
    /// </summary>
    public void MakeRoom()
    {
        _durable.ThrowIfFailed();
        if (_running)
            _gate.Wait();
        else
            RunOne(durable: false);
    }

    /// <summary>
    /// Waits until no flush is under way and nothing of <paramref name="table"/> is dirty, so that a copy of it may be
    /// written anywhere: it refers to nothing that is not durable. Pair with <see cref="EndExclusive"/>. The gate is
    /// held and released meanwhile.
    /// </summary>
    public void BeginExclusiveWhenClean(Func<ResidentTable> table)
    {
        _needExactRefcounts++;
        try
        {
            while (true)
            {
                Run();
                BeginExclusive();
                if (!table().HasDirty)
                    return;
                EndExclusive();
            }
        }
        finally
        {
            _needExactRefcounts--;
        }
    }

    /// <summary>
    /// Waits until no flush is under way and keeps others from starting; pair with <see cref="EndExclusive"/>. The gate
    /// is released while it waits.
    /// </summary>
    public void BeginExclusive()
    {
        _gate.AssertHeld();
        while (_running)
            _gate.Wait();
        _running = true;
    }

    /// <summary>Lets others flush.</summary>
    public void EndExclusive()
    {
        _gate.AssertHeld();
        _running = false;
        _gate.PulseAll();
    }

    /// <summary>Whether a flush has left, or freed, what only another one makes durable.</summary>
    private bool HasMore => _tables.RefcountBlocks.HasDirty || _tables.RefcountTable.HasDirty || _frees.Any;

    /// <summary>
    /// One flush, begun while no other is under way. Without <paramref name="durable"/> all tables are written, but the
    /// last ones are not flushed, and nothing is freed.
    /// </summary>
    private void RunOne(bool durable)
    {
        _running = true;
        long ticket = durable ? ++_started : 0;
        bool published = false;
        try
        {
            FreezeAll();
            WritePacked();
            _tables.RefcountBlocks.WriteFrozen();
            if (_tables.RefcountTable.HasFrozen)
            {
                _durable.Barrier();
                _tables.RefcountTable.WriteFrozen();
            }

            _tables.L2.WriteFrozen(_isPublishing);
            bool publishes = _tables.L2.HasFrozen || _tables.L1.HasFrozen;
            if (publishes || durable)
                _durable.Barrier(withData: true);
            published = true;
            _tables.L2.WriteFrozen();
            _tables.L1.WriteFrozen();
            _publishing.Clear();
            if (durable)
            {
                if (publishes)
                    _durable.Barrier();
                _frees.FrozenAreDurable();
                _freeing.FreeDurable();
                _completed = ticket;
            }
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            _corrupt.Set();
            throw;
        }
        finally
        {
            ThawAll(published);
            _running = false;
            _gate.PulseAll();
        }
    }

    /// <summary>Writes the compressed bytes of every entry that is frozen; the next barrier covers them.</summary>
    private void WritePacked()
    {
        if (_packed is null)
            return;
        using (_gate.Release())
            _packed.Flush();
    }

    private void FreezeAll()
    {
        _tables.L2.Freeze();
        _tables.L1.Freeze();
        if (!_isLazy || _needExactRefcounts > 0)
        {
            _tables.RefcountBlocks.Freeze();
            _tables.RefcountTable.Freeze();
        }

        _frees.Freeze();
        (_newTables, _publishing) = (_publishing, _newTables);
    }

    /// <summary>Takes back what a failed or a merely written flush leaves frozen; nothing where it completed.</summary>
    private void ThawAll(bool published)
    {
        _tables.L2.Thaw();
        _tables.L1.Thaw();
        _tables.RefcountBlocks.Thaw();
        _tables.RefcountTable.Thaw();
        _frees.Thaw();
        if (!published)
            _newTables.UnionWith(_publishing);
        _publishing.Clear();
    }
}
