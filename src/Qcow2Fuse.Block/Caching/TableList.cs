// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Caching;

/// <summary>
/// Which tables a cache holds: found by their offset, in the order of their last use, and the places that are free.
/// </summary>
/// <remarks>Callers hold the cache's gate.</remarks>
internal sealed class TableList(int capacity)
{
    /// <summary>No entry.</summary>
    public const int None = -1;

    private readonly Dictionary<long, int> _index = new(capacity);
    private readonly TableEntry[] _entries = new TableEntry[capacity];
    private int _newest = None;
    private int _freeHead = None;

    /// <summary>Tables held at most.</summary>
    public int Capacity => _entries.Length;

    /// <summary>Tables held now.</summary>
    public int Count => _index.Count;

    /// <summary>Entries that were ever used: they are the first ones.</summary>
    public int Used { get; private set; }

    /// <summary>The table that was not used for longest; <see cref="None"/> where there is none.</summary>
    public int Oldest { get; private set; } = None;

    /// <summary>An entry by its number.</summary>
    public ref TableEntry this[int entry] => ref _entries[entry];

    /// <summary>Finds the table at an offset of the device.</summary>
    public bool TryFind(long offset, out int entry) => _index.TryGetValue(offset, out entry);

    /// <summary>
    /// A free place, which is neither found nor in the order of use; <see cref="None"/> where all are taken.
    /// </summary>
    public int Take()
    {
        if (_freeHead != None)
        {
            int free = _freeHead;
            _freeHead = _entries[free].Newer;
            return free;
        }

        return Used < _entries.Length ? Used++ : None;
    }

    /// <summary>Has a table found from now on, in a place that was taken, as the last one used.</summary>
    public void Add(int entry, in TableEntry table)
    {
        _entries[entry] = table;
        _index.Add(table.Offset, entry);
        PushFront(entry);
    }

    /// <summary>Makes a table the last one used.</summary>
    public void MoveToFront(int entry)
    {
        if (_newest == entry)
            return;
        Unlink(entry);
        PushFront(entry);
    }

    /// <summary>Has a table found no more. Its place is the caller's, to fill or to give back.</summary>
    public void Remove(int entry)
    {
        _index.Remove(_entries[entry].Offset);
        Unlink(entry);
    }

    /// <summary>Gives a place back.</summary>
    public void Recycle(int entry)
    {
        _entries[entry] = new TableEntry { Offset = -1, Newer = _freeHead, Older = None };
        _freeHead = entry;
    }

    private void PushFront(int entry)
    {
        _entries[entry].Older = _newest;
        _entries[entry].Newer = None;
        if (_newest != None)
            _entries[_newest].Newer = entry;
        _newest = entry;
        if (Oldest == None)
            Oldest = entry;
    }

    private void Unlink(int entry)
    {
        ref TableEntry gone = ref _entries[entry];
        if (gone.Newer != None)
            _entries[gone.Newer].Older = gone.Older;
        else
            _newest = gone.Older;
        if (gone.Older != None)
            _entries[gone.Older].Newer = gone.Newer;
        else
            Oldest = gone.Newer;
    }
}
