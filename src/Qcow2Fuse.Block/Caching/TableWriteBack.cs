// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;

namespace Qcow2Fuse.Block.Caching;

/// <summary>
/// Which tables of a cache are modified, and how they get to the device: frozen all at one moment, then written.
/// </summary>
/// <remarks>Callers hold the cache's gate, which is released for writes of frozen tables.</remarks>
internal sealed unsafe class TableWriteBack(
    BlockDevice device, object gate, int tableSize, TableList tables, TableMemory memory)
{
    private const int StagingBytes = 256 * 1024;

    private readonly int[] _frozen = new int[tables.Capacity];
    private readonly long[] _frozenOffsets = new long[tables.Capacity];
    private int _frozenCount;

    /// <summary>Tables written so far.</summary>
    public long Written { get; private set; }

    /// <summary>Whether any table is dirty, not counting frozen content.</summary>
    public bool HasDirty { get; private set; }

    /// <summary>Whether tables are frozen and not yet written.</summary>
    public bool HasFrozen => _frozenCount > 0;

    /// <inheritdoc cref="CachedTable.Modify"/>
    public Span<byte> Modify(int index)
    {
        ref TableEntry entry = ref tables[index];
        if (entry.Frozen && entry.PreImage == null)
        {
            entry.PreImage = (byte*)NativeMemory.AlignedAlloc((nuint)tableSize, 64);
            memory.Table(index).CopyTo(new Span<byte>(entry.PreImage, tableSize));
        }

        entry.Dirty = true;
        HasDirty = true;
        return memory.Table(index);
    }

    /// <inheritdoc cref="TableCache.Freeze"/>
    public int Freeze()
    {
        if (_frozenCount != 0)
            throw new InvalidOperationException("Tables are still frozen.");
        for (int entry = 0; entry < tables.Used; entry++)
        {
            ref TableEntry candidate = ref tables[entry];
            if (!candidate.Dirty)
                continue;
            candidate.Dirty = false;
            candidate.Frozen = true;
            _frozen[_frozenCount] = entry;
            _frozenOffsets[_frozenCount++] = candidate.Offset;
        }

        HasDirty = false;
        _frozenOffsets.AsSpan(0, _frozenCount).Sort(_frozen.AsSpan(0, _frozenCount));
        return _frozenCount;
    }

    /// <inheritdoc cref="TableCache.WriteFrozen"/>
    public int WriteFrozen(Func<long, bool>? select)
    {
        int perRequest = Math.Max(1, StagingBytes / tableSize);
        int written = 0;
        int kept = 0;
        int next = 0;
        using PooledBuffer staging = BufferPool.Shared.Rent(perRequest * tableSize);
        while (next < _frozenCount)
        {
            if (select is not null && !select(_frozenOffsets[next]))
            {
                Keep(next++, ref kept);
                continue;
            }

            int count = 1;
            while (count < perRequest && next + count < _frozenCount
                && _frozenOffsets[next + count] == _frozenOffsets[next] + ((long)count * tableSize)
                && (select is null || select(_frozenOffsets[next + count])))
                count++;

            if (!TryWriteRun(next, count, staging.Span, out Exception? failure))
            {
                while (next < _frozenCount)
                    Keep(next++, ref kept);
                _frozenCount = kept;
                throw failure!;
            }

            next += count;
            written += count;
        }

        _frozenCount = kept;
        return written;
    }

    /// <inheritdoc cref="TableCache.Thaw"/>
    public void Thaw()
    {
        for (int i = 0; i < _frozenCount; i++)
        {
            ref TableEntry entry = ref tables[_frozen[i]];
            entry.Frozen = false;
            entry.Dirty = true;
            HasDirty = true;
            ReleasePreImage(ref entry);
        }

        _frozenCount = 0;
        Monitor.PulseAll(gate);
    }

    /// <summary>Writes a dirty table that may reach the device at any time, with the gate held: it is rare.</summary>
    public void WriteVictim(int entry)
    {
        device.Write(tables[entry].Offset, memory.Table(entry));
        tables[entry].Dirty = false;
        Written++;
    }

    /// <summary>Gives back the content that was kept aside. Nothing is written any more.</summary>
    public void ReleasePreImages()
    {
        for (int i = 0; i < tables.Used; i++)
            ReleasePreImage(ref tables[i]);
    }

    private bool TryWriteRun(int first, int count, Span<byte> staging, out Exception? failure)
    {
        for (int i = 0; i < count; i++)
        {
            int index = _frozen[first + i];
            byte* content = tables[index].PreImage;
            if (content == null)
                content = memory.Pointer(index);
            new ReadOnlySpan<byte>(content, tableSize).CopyTo(staging[(i * tableSize)..]);
        }

        failure = null;
        Monitor.Exit(gate);
        try
        {
            device.Write(_frozenOffsets[first], staging[..(count * tableSize)]);
        }
        catch (BlockException e)
        {
            failure = e;
        }
        finally
        {
            Monitor.Enter(gate);
        }

        if (failure is not null)
            return false;
        for (int i = 0; i < count; i++)
        {
            ref TableEntry entry = ref tables[_frozen[first + i]];
            entry.Frozen = false;
            ReleasePreImage(ref entry);
        }

        Written += count;
        Monitor.PulseAll(gate);
        return true;
    }

    private void Keep(int from, ref int kept)
    {
        _frozen[kept] = _frozen[from];
        _frozenOffsets[kept++] = _frozenOffsets[from];
    }

    private static void ReleasePreImage(ref TableEntry entry)
    {
        if (entry.PreImage == null)
            return;
        NativeMemory.AlignedFree(entry.PreImage);
        entry.PreImage = null;
    }
}
