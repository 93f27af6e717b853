// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>
/// The metadata of an image in memory, and the order in which its changes become durable.
/// </summary>
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
/// <para>
/// After a failed flush of the file nobody knows what of it is durable, and a second flush may lie: from then on every
/// flush and every write fails.
/// </para>
/// </remarks>
internal sealed partial class MetadataCaches : IDisposable
{
    /// <summary>Slices for 8 GiB of a disk with clusters of 64 KiB, or all there are of a smaller one.</summary>
    private const long PopulatedToWrite = 1 << 20;

    /// <summary>The same for an image that is only read, such as each layer of a long chain.</summary>
    private const long PopulatedToRead = 256 << 10;

    private readonly BlockDevice _file;
    private readonly BlockDevice? _externalData;
    private readonly Qcow2Geometry _geometry;
    private readonly HeaderStore _header;
    private readonly ImageGate _gate;
    private readonly CorruptMark _corrupt;
    private readonly Func<long, bool> _isPublishing;
    private readonly bool _punch;
    private HashSet<long> _newTables = [];
    private HashSet<long> _publishing = [];
    private bool _isLazy;
    private int _needExactRefcounts;
    private bool _running;
    private long _started;
    private long _completed;
    private BlockException? _failure;

    public MetadataCaches(
        BlockDevice file, HeaderStore headerStore, Qcow2Geometry geometry, FormatOpenArguments arguments,
        ImageGate gate, CorruptMark corrupt)
    {
        _corrupt = corrupt;
        Qcow2Header header = headerStore.Current;
        _file = file;
        _externalData = arguments.DataFile;
        _geometry = geometry;
        _gate = gate;
        _isPublishing = offset => _publishing.Contains(offset & ~_geometry.ClusterMask);
        _punch = arguments.Discard != DiscardMode.Ignore;
        _report = arguments.Report;
        Memory = arguments.Memory;
        L1 = ResidentTable.Load(file, new HostOffset(header.L1Offset), header.L1Size, Memory);
        try
        {
            // Who only reads counts nothing, and can read an image whose refcounts are lost.
            RefcountTable = ResidentTable.Load(
                file, new HostOffset(header.RefcountTableOffset),
                arguments.ReadOnly ? 0 : (int)(((long)header.RefcountTableClusters << header.ClusterBits) / 8), Memory);
        }
        catch
        {
            L1.Dispose();
            throw;
        }

        Qcow2Options options = arguments.For<Qcow2Options>();
        L2 = new TableCache(file, geometry.SliceBytes, CacheSizes.L2Slices(geometry, header.Size, options), gate,
            DirtyEviction.AskOwner, MakeRoom);
        RefcountBlocks = new TableCache(file, geometry.SliceBytes, CacheSizes.RefcountSlices(geometry, options), gate,
            DirtyEviction.WriteVictim);
        if (options.PopulateCaches)
        {
            L2.Populate(arguments.ReadOnly ? PopulatedToRead : PopulatedToWrite);
            if (!arguments.ReadOnly)
                RefcountBlocks.Populate(PopulatedToWrite);
        }

        Refcounts = new Refcounts(file, geometry, RefcountTable, RefcountBlocks);
        _header = headerStore;
        Guard = new OverlapGuard(file.Name, geometry, Memory);
        Allocator = new ClusterAllocator(file, geometry, Refcounts, Guard, GrowRefcountTable, Flush, gate);
        Frees = new PendingFrees(geometry.ClusterBits);
        if (arguments is { ReadOnly: false, Compress: not CompressedWrites.Off })
            Packed = new PackedClusters(file, geometry, Refcounts, Allocator, gate);
    }

    /// <summary>Where memory for tables is taken from.</summary>
    public MemoryBudget Memory { get; }

    /// <summary>The active L1 table.</summary>
    public ResidentTable L1 { get; private set; }

    /// <summary>Slices of L2 tables.</summary>
    public TableCache L2 { get; }

    public Refcounts Refcounts { get; }

    public ClusterAllocator Allocator { get; }

    public PendingFrees Frees { get; }

    /// <summary>Where compressed clusters are written; null where they are not.</summary>
    public PackedClusters? Packed { get; }

    public OperationEpochs Epochs { get; } = new();

    private ResidentTable RefcountTable { get; set; }

    private TableCache RefcountBlocks { get; }

    /// <summary>Whether a flush of the file failed, so that nothing more can be made durable.</summary>
    public bool HasFailed => _failure is not null || Packed?.Failure is not null;

    /// <summary>Throws if an earlier flush of the file failed, or a write of packed clusters.</summary>
    public void ThrowIfFailed()
    {
        Packed?.ThrowIfFailed();
        if (_failure is not null)
            throw new BlockException(BlockErrorKind.Io,
                $"{_file.Name}: an earlier flush failed, nothing more is written: {_failure.Message}", _failure);
    }

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
    /// Makes everything durable, refcounts included, and whatever the first flush frees with a second one: a clean
    /// close leaves nothing behind.
    /// </summary>
    public void FlushForClose()
    {
        _gate.AssertHeld();
        _isLazy = false;
        Flush();
        if (RefcountBlocks.HasDirty || RefcountTable.HasDirty || Frees.Any)
            Flush();
    }

    /// <summary>
    /// Writes all there is, lazy refcounts included, and frees what waits for it: nobody finds a contradiction in the
    /// file then. Guest writes are held back.
    /// </summary>
    public void FlushWhileHeld()
    {
        _gate.AssertHeld();
        bool wasLazy = _isLazy;
        _isLazy = false;
        try
        {
            FlushAndFree();
            if (RefcountBlocks.HasDirty || RefcountTable.HasDirty || Frees.Any)
                Flush();
        }
        finally
        {
            _isLazy = wasLazy;
        }
    }

    /// <summary>
    /// Makes everything linked before the call durable. The gate is held and released meanwhile. Callers that arrive
    /// while a flush is under way share the next one.
    /// </summary>
    public void Flush()
    {
        _gate.AssertHeld();
        long mine = _started + 1;
        while (_completed < mine)
        {
            ThrowIfFailed();
            if (_running)
                _gate.Wait();
            else
                RunFlush(durable: true);
        }
    }

    /// <summary>
    /// Waits until no flush is under way and nothing of <paramref name="table"/> is dirty, so that a copy of it may be
    /// written anywhere: it refers to nothing that is not durable. Pair with <see cref="EndExclusive"/>.
    /// </summary>
    public void BeginExclusiveWhenClean(Func<ResidentTable> table)
    {
        _needExactRefcounts++;
        try
        {
            while (true)
            {
                Flush();
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
    /// Replaces the L1 table by a larger copy that is durable at its new place and that the header points at. What
    /// changed since the copy was made is still to be written, as before.
    /// </summary>
    public void ReplaceL1(ResidentTable larger)
    {
        ResidentTable old = L1;
        larger.Adopt(old);
        L1 = larger;
        old.Dispose();
    }

    /// <summary>
    /// Takes another L1 table, which is durable and which the header points at, in place of the active one, nothing of
    /// which is waiting to be written. Called between <see cref="BeginExclusive"/> and <see cref="EndExclusive"/>.
    /// </summary>
    public void SwitchL1(ResidentTable other)
    {
        if (L1.HasDirty || L1.HasFrozen)
            throw new InvalidOperationException("The L1 table still has changes to be written.");
        ResidentTable old = L1;
        L1 = other;
        old.Dispose();
    }

    /// <summary>
    /// Waits until no flush is under way and keeps others from starting; pair with <see cref="EndExclusive"/>.
    /// </summary>
    public void BeginExclusive()
    {
        _gate.AssertHeld();
        while (_running)
            _gate.Wait();
        _running = true;
    }

    public void EndExclusive()
    {
        _gate.AssertHeld();
        _running = false;
        _gate.PulseAll();
    }

    /// <summary>
    /// Says that a change of the header failed, so that nobody knows what the file holds: final, like a failed flush.
    /// </summary>
    public void Fail(BlockException failure) => _failure ??= failure;

    /// <summary>
    /// Changes fields of the header durably. A write that failed may have changed the file nevertheless: then the old
    /// fields are put back, durably, before the failure is thrown on; where that fails too, it is final.
    /// </summary>
    public void UpdateHeader(Func<Qcow2Header, Qcow2Header> change)
    {
        try
        {
            _header.Update(change);
        }
        catch (BlockException)
        {
            PutHeaderBack();
            throw;
        }

        Barrier();
    }

    /// <summary>Flushes the file with the gate released. A failure is final.</summary>
    public void Barrier() => Barrier(withData: false);

    private void PutHeaderBack()
    {
        try
        {
            _header.Reassert();
        }
        catch (BlockException e)
        {
            Fail(e);
            throw;
        }

        Barrier();
    }

    /// <summary>
    /// Flushes the file, before it the external data file where asked to, with the gate released. A failure is final.
    /// </summary>
    private void Barrier(bool withData)
    {
        BlockException? failure = null;
        using (_gate.Release())
        {
            try
            {
                if (withData)
                    _externalData?.Flush();
                _file.Flush();
            }
            catch (BlockException e)
            {
                failure = e;
            }
        }

        if (failure is null)
            return;
        _failure ??= failure;
        throw new BlockException(failure.Kind, failure.Message, failure, failure.Cause);
    }

    /// <summary>The flush that makes durable what is changed now.</summary>
    public long NextFlush => _started + 1;

    /// <summary>The last flush that completed.</summary>
    public long CompletedFlush => _completed;

    /// <summary>What the caches did so far.</summary>
    public MetadataStatistics Statistics =>
        new(L2.Statistics, RefcountBlocks.Statistics, _completed);

    /// <summary>Gives up cached tables that were not used since the last call, and their memory.</summary>
    public void DropIdle()
    {
        L2.DropIdle();
        RefcountBlocks.DropIdle();
    }

    public void Dispose()
    {
        Guard.Dispose();
        L1.Dispose();
        RefcountTable.Dispose();
        L2.Dispose();
        RefcountBlocks.Dispose();
        Packed?.Dispose();
    }

    /// <summary>
    /// Called by the L2 cache when all its slices are dirty: writes them without making them durable.
    /// </summary>
    private void MakeRoom()
    {
        ThrowIfFailed();
        if (_running)
            _gate.Wait();
        else
            RunFlush(durable: false);
    }

    private void RunFlush(bool durable)
    {
        _running = true;
        long ticket = durable ? ++_started : 0;
        bool published = false;
        try
        {
            FreezeAll();
            WritePacked();
            RefcountBlocks.WriteFrozen();
            if (RefcountTable.HasFrozen)
            {
                Barrier();
                RefcountTable.WriteFrozen();
            }

            L2.WriteFrozen(_isPublishing);
            bool publishes = L2.HasFrozen || L1.HasFrozen;
            if (publishes || durable)
                Barrier(withData: true);
            published = true;
            L2.WriteFrozen();
            L1.WriteFrozen();
            _publishing.Clear();
            if (durable)
            {
                if (publishes)
                    Barrier();
                Frees.FrozenAreDurable();
                FreeDurable();
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
        if (Packed is null)
            return;
        using (_gate.Release())
            Packed.Flush();
    }

    private void FreezeAll()
    {
        L2.Freeze();
        L1.Freeze();
        if (!_isLazy || _needExactRefcounts > 0)
        {
            RefcountBlocks.Freeze();
            RefcountTable.Freeze();
        }

        Frees.Freeze();
        (_newTables, _publishing) = (_publishing, _newTables);
    }

    /// <summary>Takes back what a failed or a merely written flush leaves frozen; nothing where it completed.</summary>
    private void ThawAll(bool published)
    {
        L2.Thaw();
        L1.Thaw();
        RefcountBlocks.Thaw();
        RefcountTable.Thaw();
        Frees.Thaw();
        if (!published)
            _newTables.UnionWith(_publishing);
        _publishing.Clear();
    }
}
