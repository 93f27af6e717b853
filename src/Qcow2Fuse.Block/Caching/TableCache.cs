// SPDX-License-Identifier: MIT
using System.Numerics;
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
public sealed unsafe partial class TableCache : IDisposable
{
    private const int None = -1;

    /// <summary>Tables get their memory in pieces of this size, and give it back so.</summary>
    private const int ChunkBytes = 256 * 1024;

    private readonly BlockDevice _device;
    private readonly object _gate;
    private readonly int _tableSize;
    private readonly DirtyEviction _eviction;
    private readonly Action? _makeRoom;
    private readonly Dictionary<long, int> _index;
    private readonly Entry[] _entries;
    private readonly byte*[] _chunks;
    private readonly int _chunkShift;
    private int _epoch;
    private int _used;
    private int _lruHead = None;
    private int _lruTail = None;
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
        _tableSize = tableSize;
        _eviction = eviction;
        _makeRoom = makeRoom;
        _entries = new Entry[capacity];
        _frozen = new int[capacity];
        _frozenOffsets = new long[capacity];
        _index = new Dictionary<long, int>(capacity);
        _chunkShift = Math.Max(0, BitOperations.Log2(ChunkBytes) - BitOperations.Log2((uint)tableSize));
        _chunks = new byte*[((capacity - 1) >> _chunkShift) + 1];
    }

    /// <summary>Tables held at most.</summary>
    public int Capacity => _entries.Length;

    /// <summary>Reads of tables from the device so far.</summary>
    public long Misses { get; private set; }

    /// <summary>How often a table was modified or dropped: what was learned of tables holds until it moves.</summary>
    public long Changes { get; private set; }

    /// <summary>What the cache did so far.</summary>
    public TableCacheStatistics Statistics => new(_hits, Misses, _written, _index.Count);

    /// <summary>Whether any table is dirty, not counting frozen content.</summary>
    public bool HasDirty { get; private set; }

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
            if (_index.TryGetValue(offset, out int entry))
            {
                ref Entry found = ref _entries[entry];
                if (found.Loading)
                {
                    Monitor.Wait(_gate);
                    continue;
                }

                return Pin(entry);
            }

            entry = TakeFreeEntry();
            if (_index.ContainsKey(offset))
            {
                // Somebody else began to load it while the gate was released.
                Recycle(entry);
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
        if (_isDisposed || !_index.TryGetValue(offset, out int entry) || _entries[entry].Loading)
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
        while (_index.TryGetValue(offset, out int entry))
        {
            ref Entry dropped = ref _entries[entry];
            if (dropped.Dirty || dropped.Frozen)
                throw new InvalidOperationException("A freed table would still be written.");
            if (dropped.Pins > 0 || dropped.Loading)
            {
                Monitor.Wait(_gate, millisecondsTimeout: 1);
                continue;
            }

            Remove(entry);
            Recycle(entry);
        }
    }

    /// <summary>Gives all memory back. Whoever asks for a table later gets an error, never memory of others.</summary>
    public void Dispose()
    {
        if (_isDisposed)
            return;
        _isDisposed = true;
        for (int i = 0; i < _used; i++)
            ReleasePreImage(ref _entries[i]);
        for (int chunk = 0; chunk < _chunks.Length; chunk++)
            FreeChunk(chunk);
    }

    internal Span<byte> Table(int entry) => new(TablePointer(entry), _tableSize);

    internal void Unpin(int entry)
    {
        ref Entry pinned = ref _entries[entry];
        if (--pinned.Pins < 0)
            throw new InvalidOperationException("A table was unpinned twice.");
    }

    private CachedTable Pin(int entry)
    {
        ref Entry found = ref _entries[entry];
        found.Pins++;
        found.LastUse = _epoch;
        _hits++;
        MoveToFront(entry);
        return new CachedTable(this, entry);
    }

    private byte* TablePointer(int entry) =>
        _chunks[entry >> _chunkShift] + ((long)(entry & ((1 << _chunkShift) - 1)) * _tableSize);

    private void Load(int entry, long offset)
    {
        ref Entry loading = ref _entries[entry];
        EnsureChunk(entry);
        loading = new Entry
        {
            Offset = offset,
            Pins = 1,
            Loading = true,
            LastUse = _epoch,
            Older = None,
            Newer = None,
        };
        _index.Add(offset, entry);
        PushFront(entry);
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
                Remove(entry);
                Recycle(entry);
            }

            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>An entry that is in neither the index nor the list. May release the gate.</summary>
    private int TakeFreeEntry()
    {
        while (true)
        {
            if (_freeHead != None)
            {
                int free = _freeHead;
                _freeHead = _entries[free].Newer;
                return free;
            }

            if (_used < _entries.Length)
                return _used++;

            int dirtyVictim = None;
            for (int entry = _lruTail; entry != None; entry = _entries[entry].Newer)
            {
                ref Entry candidate = ref _entries[entry];
                if (candidate.Pins > 0 || candidate.Loading || candidate.Frozen)
                    continue;
                if (!candidate.Dirty)
                {
                    Remove(entry);
                    return entry;
                }

                if (dirtyVictim == None)
                    dirtyVictim = entry;
                if (_eviction == DirtyEviction.WriteVictim)
                    break;
            }

            // Where all tables are pinned, loading or being written, their holders are about to let go of them;
            // unpinning does not pulse, so the wait is bounded.
            if (dirtyVictim == None)
                Monitor.Wait(_gate, millisecondsTimeout: 5);
            else if (_eviction == DirtyEviction.AskOwner)
                _makeRoom!();
            else
                WriteVictim(dirtyVictim);
        }
    }

    /// <summary>Writes a dirty table that may reach the device at any time, with the gate held: it is rare.</summary>
    private void WriteVictim(int entry)
    {
        _device.Write(_entries[entry].Offset, Table(entry));
        _entries[entry].Dirty = false;
        _written++;
    }

    private int _freeHead = None;

    private void Recycle(int entry)
    {
        _entries[entry] = new Entry { Offset = -1, Newer = _freeHead, Older = None };
        _freeHead = entry;
    }

    private void Remove(int entry)
    {
        _index.Remove(_entries[entry].Offset);
        Unlink(entry);
    }

    private void MoveToFront(int entry)
    {
        if (_lruHead == entry)
            return;
        Unlink(entry);
        PushFront(entry);
    }

    private void PushFront(int entry)
    {
        _entries[entry].Older = _lruHead;
        _entries[entry].Newer = None;
        if (_lruHead != None)
            _entries[_lruHead].Newer = entry;
        _lruHead = entry;
        if (_lruTail == None)
            _lruTail = entry;
    }

    private void Unlink(int entry)
    {
        ref Entry gone = ref _entries[entry];
        if (gone.Newer != None)
            _entries[gone.Newer].Older = gone.Older;
        else
            _lruHead = gone.Older;
        if (gone.Older != None)
            _entries[gone.Older].Newer = gone.Newer;
        else
            _lruTail = gone.Newer;
    }

    private struct Entry
    {
        /// <summary>Where the table lies on the device.</summary>
        public long Offset;

        /// <summary>The frozen content, where the table was modified after it was frozen; else null.</summary>
        public byte* PreImage;

        /// <summary>Neighbours in the order of use, or the next free entry in <see cref="Newer"/>.</summary>
        public int Older;
        public int Newer;

        /// <summary>How many callers hold the table.</summary>
        public int Pins;

        /// <summary>The period between two calls of <see cref="DropIdle"/> in which it was last used.</summary>
        public int LastUse;

        /// <summary>Being read; nobody but the reader may look at it.</summary>
        public bool Loading;

        /// <summary>Modified since it was frozen or written.</summary>
        public bool Dirty;

        /// <summary>Belongs to the set that <see cref="WriteFrozen"/> writes.</summary>
        public bool Frozen;
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
