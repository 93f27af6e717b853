// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Caching;

/// <summary>What a <see cref="TableCache"/> does when only modified tables are left to evict.</summary>
public enum DirtyEviction
{
    /// <summary>Writes the victim: its content may reach the device at any time.</summary>
    WriteVictim,

    /// <summary>Calls the owner, who writes modified tables in the order they need.</summary>
    AskOwner,
}

/// <summary>
/// A write-back cache of fixed-size metadata tables in native memory.
/// </summary>
/// <remarks>
/// <para>
/// The cache knows tables and their state, not what they mean. Which tables have to be durable before which others is
/// the owner's business: it freezes the modified tables at one moment (<see cref="Freeze"/>), makes durable what they
/// depend on, and then writes exactly the frozen content (<see cref="WriteFrozen"/>), while new modifications already
/// go on in the same tables.
/// </para>
/// <para>
/// A table is clean, or modified since it was last written ("dirty"), or frozen, or frozen and dirty again. The first
/// modification of a frozen table keeps the frozen content aside until it has been written. Only clean tables that
/// nobody has pinned are evicted, the least recently used first.
/// </para>
/// <para>
/// Every method is called with the owner's monitor, the gate, held exactly once. Methods that do I/O release it for
/// the I/O and say so; whatever the caller read before such a call may have changed when it returns, except the
/// existence of tables it has pinned.
/// </para>
/// </remarks>
public sealed class TableCache : IDisposable
{
    private readonly BlockDevice _device;
    private readonly object _gate;
    private readonly DirtyEviction _eviction;
    private readonly Action? _makeRoom;
    private readonly TableList _tables;
    private readonly TableMemory _memory;
    private readonly TableWriteBack _writeBack;
    private long _hits;
    private int _epoch;
    private bool _isDisposed;

    /// <summary>
    /// Creates a cache of up to <paramref name="capacity"/> tables of <paramref name="tableSize"/> bytes.
    /// </summary>
    /// <param name="device">Where the tables lie.</param>
    /// <param name="tableSize">Bytes of a table, a power of two.</param>
    /// <param name="capacity">Tables held at most, at least 8.</param>
    /// <param name="gate">The monitor that every caller holds.</param>
    /// <param name="eviction">What happens when only dirty tables are left.</param>
    /// <param name="makeRoom">For <see cref="DirtyEviction.AskOwner"/>: writes dirty tables; may release the
    /// gate.</param>
    public TableCache(
        BlockDevice device, int tableSize, int capacity, object gate, DirtyEviction eviction, Action? makeRoom = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(capacity, 8);
        ArgumentOutOfRangeException.ThrowIfNotEqual(
            eviction == DirtyEviction.AskOwner, makeRoom is not null, nameof(makeRoom));
        _device = device;
        _gate = gate;
        _eviction = eviction;
        _makeRoom = makeRoom;
        _tables = new TableList(capacity);
        _memory = new TableMemory(tableSize, capacity);
        _writeBack = new TableWriteBack(device, gate, tableSize, _tables, _memory);
    }

    /// <summary>Tables held at most.</summary>
    public int Capacity => _tables.Capacity;

    /// <summary>Reads of tables from the device so far.</summary>
    public long Misses { get; private set; }

    /// <summary>How often a table was modified or dropped: what was learned of tables holds until it moves.</summary>
    public long Changes { get; private set; }

    /// <summary>What the cache did so far.</summary>
    public TableCacheStatistics Statistics => new(_hits, Misses, _writeBack.Written, _tables.Count);

    /// <summary>Whether any table is dirty, not counting frozen content.</summary>
    public bool HasDirty => _writeBack.HasDirty;

    /// <summary>Whether tables are frozen and not yet written.</summary>
    public bool HasFrozen => _writeBack.HasFrozen;

    /// <summary>
    /// Pins the table at <paramref name="offset"/> of the device, reading it if it is not here. Releases the gate
    /// while it reads, evicts, or waits for another caller's read of the same table.
    /// </summary>
    /// <returns>The pinned table; dispose it while holding the gate.</returns>
    /// <exception cref="BlockException">Reading it, or writing a victim, failed. Nothing is pinned then.</exception>
    public CachedTable Get(long offset)
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        while (true)
        {
            if (_tables.TryFind(offset, out int entry))
            {
                if (_tables[entry].Loading)
                {
                    Monitor.Wait(_gate);
                    continue;
                }

                return Pin(entry);
            }

            entry = TakeFreeEntry();
            if (_tables.TryFind(offset, out _))
            {
                // Somebody else began to load it while the gate was released.
                _tables.Recycle(entry);
                continue;
            }

            Load(entry, offset);
            return new CachedTable(this, entry);
        }
    }

    /// <summary>
    /// Pins the table at <paramref name="offset"/> if it is here: no I/O, and the gate is not released. A lookup that
    /// finds nothing leaves no trace.
    /// </summary>
    public bool TryGet(long offset, out CachedTable table)
    {
        table = default;
        if (_isDisposed || !_tables.TryFind(offset, out int entry) || _tables[entry].Loading)
            return false;
        table = Pin(entry);
        return true;
    }

    /// <summary>
    /// Forgets the table at <paramref name="offset"/>, whose cluster is about to be freed. It must be neither dirty nor
    /// frozen: nothing may write to a freed table later. Waits, releasing the gate, for callers that still read it.
    /// </summary>
    public void Drop(long offset)
    {
        Changes++;
        while (_tables.TryFind(offset, out int entry))
        {
            ref TableEntry dropped = ref _tables[entry];
            if (dropped.Dirty || dropped.Frozen)
                throw new InvalidOperationException("A freed table would still be written.");
            if (dropped.Pins > 0 || dropped.Loading)
            {
                Monitor.Wait(_gate, millisecondsTimeout: 1);
                continue;
            }

            _tables.Remove(entry);
            _tables.Recycle(entry);
        }
    }

    /// <summary>
    /// Makes the present content of all dirty tables the set that <see cref="WriteFrozen"/> writes. The set must be
    /// empty: one writer at a time freezes, writes and thaws.
    /// </summary>
    /// <returns>How many tables are frozen.</returns>
    public int Freeze() => _writeBack.Freeze();

    /// <summary>
    /// Writes the frozen tables that <paramref name="select"/> chooses by their offset (all of them where it is null),
    /// neighbours in one request, and takes them out of the frozen set. Releases the gate while it writes.
    /// </summary>
    /// <returns>How many tables were written.</returns>
    /// <exception cref="BlockException">A write failed. What was not written is still frozen.</exception>
    public int WriteFrozen(Func<long, bool>? select = null) => _writeBack.WriteFrozen(select);

    /// <summary>
    /// Makes what is still frozen dirty again, after a failure. Later modifications win over frozen content.
    /// </summary>
    public void Thaw() => _writeBack.Thaw();

    /// <summary>
    /// Gives up clean tables that were not used since the call before, and the memory that holds nothing any more.
    /// </summary>
    public void DropIdle()
    {
        for (int entry = 0; entry < _tables.Used; entry++)
        {
            if (!_tables[entry].IsIdle || _tables[entry].LastUse == _epoch)
                continue;
            _tables.Remove(entry);
            _tables.Recycle(entry);
        }

        _epoch++;
        _memory.FreeUnused(_tables);
    }

    /// <summary>
    /// Has the kernel find memory for tables of up to <paramref name="bytes"/> now, and keeps it. To be called before
    /// any table is asked for.
    /// </summary>
    public void Populate(long bytes) => _memory.Populate(bytes);

    /// <summary>Gives all memory back. Whoever asks for a table later gets an error, never memory of others.</summary>
    public void Dispose()
    {
        if (_isDisposed)
            return;
        _isDisposed = true;
        _writeBack.ReleasePreImages();
        _memory.FreeAll();
    }

    internal Span<byte> Table(int entry) => _memory.Table(entry);

    internal Span<byte> Modify(int entry)
    {
        Changes++;
        return _writeBack.Modify(entry);
    }

    internal void Unpin(int entry)
    {
        ref TableEntry pinned = ref _tables[entry];
        if (--pinned.Pins < 0)
            throw new InvalidOperationException("A table was unpinned twice.");
    }

    private CachedTable Pin(int entry)
    {
        ref TableEntry found = ref _tables[entry];
        found.Pins++;
        found.LastUse = _epoch;
        _hits++;
        _tables.MoveToFront(entry);
        return new CachedTable(this, entry);
    }

    private void Load(int entry, long offset)
    {
        _memory.Ensure(entry);
        _tables.Add(entry, new TableEntry { Offset = offset, Pins = 1, Loading = true, LastUse = _epoch });
        ref TableEntry loading = ref _tables[entry];
        Misses++;
        bool done = false;
        Monitor.Exit(_gate);
        try
        {
            _device.Read(offset, Table(entry));
            done = true;
        }
        finally
        {
            Monitor.Enter(_gate);
            loading.Loading = false;
            if (!done)
            {
                loading.Pins = 0;
                _tables.Remove(entry);
                _tables.Recycle(entry);
            }

            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>An entry that is in neither the index nor the list. May release the gate.</summary>
    private int TakeFreeEntry()
    {
        while (true)
        {
            int free = _tables.Take();
            if (free != TableList.None)
                return free;

            int dirtyVictim = TableList.None;
            for (int entry = _tables.Oldest; entry != TableList.None; entry = _tables[entry].Newer)
            {
                ref TableEntry candidate = ref _tables[entry];
                if (candidate.Pins > 0 || candidate.Loading || candidate.Frozen)
                    continue;
                if (!candidate.Dirty)
                {
                    _tables.Remove(entry);
                    return entry;
                }

                if (dirtyVictim == TableList.None)
                    dirtyVictim = entry;
                if (_eviction == DirtyEviction.WriteVictim)
                    break;
            }

            // Where all tables are pinned, loading or being written, their holders are about to let go of them;
            // unpinning does not pulse, so the wait is bounded.
            if (dirtyVictim == TableList.None)
                Monitor.Wait(_gate, millisecondsTimeout: 5);
            else if (_eviction == DirtyEviction.AskOwner)
                _makeRoom!();
            else
                _writeBack.WriteVictim(dirtyVictim);
        }
    }
}

/// <summary>A table pinned in a <see cref="TableCache"/>. Use and dispose it while holding the cache's gate.</summary>
public readonly ref struct CachedTable
{
    private readonly TableCache _cache;
    private readonly int _entry;

    internal CachedTable(TableCache cache, int entry)
    {
        _cache = cache;
        _entry = entry;
    }

    /// <summary>The content, for reading.</summary>
    public ReadOnlySpan<byte> Bytes => _cache.Table(_entry);

    /// <summary>
    /// The content, for writing at once: marks the table dirty and, if it is frozen, keeps its frozen content aside.
    /// </summary>
    public Span<byte> Modify() => _cache.Modify(_entry);

    /// <summary>Unpins the table.</summary>
    public void Dispose() => _cache.Unpin(_entry);
}
