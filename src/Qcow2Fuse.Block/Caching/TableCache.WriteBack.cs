// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;

namespace Qcow2Fuse.Block.Caching;

/// <summary>Freezing and writing of modified tables.</summary>
public sealed unsafe partial class TableCache
{
    private const int StagingBytes = 256 * 1024;

    private readonly int[] _frozen;
    private readonly long[] _frozenOffsets;
    private int _frozenCount;

    /// <summary>Whether tables are frozen and not yet written.</summary>
    public bool HasFrozen => _frozenCount > 0;

    /// <summary>
    /// Makes the present content of all dirty tables the set that <see cref="WriteFrozen"/> writes. The set must be
    /// empty: one writer at a time freezes, writes and thaws.
    /// </summary>
    /// <returns>How many tables are frozen.</returns>
    public int Freeze()
    {
        if (_frozenCount != 0)
            throw new InvalidOperationException("Tables are still frozen.");
        for (int entry = 0; entry < _used; entry++)
        {
            ref Entry candidate = ref _entries[entry];
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

    /// <summary>
    /// Writes the frozen tables that <paramref name="select"/> chooses by their offset (all of them where it is null),
    /// neighbours in one request, and takes them out of the frozen set. Releases the gate while it writes.
    /// </summary>
    /// <returns>How many tables were written.</returns>
    /// <exception cref="BlockException">A write failed. What was not written is still frozen.</exception>
    public int WriteFrozen(Func<long, bool>? select = null)
    {
        int perRequest = Math.Max(1, StagingBytes / _tableSize);
        int written = 0;
        int kept = 0;
        int next = 0;
        using PooledBuffer staging = BufferPool.Shared.Rent(perRequest * _tableSize);
        while (next < _frozenCount)
        {
            if (select is not null && !select(_frozenOffsets[next]))
            {
                Keep(next++, ref kept);
                continue;
            }

            int count = 1;
            while (count < perRequest && next + count < _frozenCount
                && _frozenOffsets[next + count] == _frozenOffsets[next] + ((long)count * _tableSize)
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

    /// <summary>
    /// Makes what is still frozen dirty again, after a failure. Later modifications win over frozen content.
    /// </summary>
    public void Thaw()
    {
        for (int i = 0; i < _frozenCount; i++)
        {
            ref Entry entry = ref _entries[_frozen[i]];
            entry.Frozen = false;
            entry.Dirty = true;
            HasDirty = true;
            ReleasePreImage(ref entry);
        }

        _frozenCount = 0;
        Monitor.PulseAll(_gate);
    }

    internal Span<byte> Modify(int index)
    {
        ref Entry entry = ref _entries[index];
        if (entry.Frozen && entry.PreImage == null)
        {
            entry.PreImage = (byte*)NativeMemory.AlignedAlloc((nuint)_tableSize, 64);
            Table(index).CopyTo(new Span<byte>(entry.PreImage, _tableSize));
        }

        entry.Dirty = true;
        HasDirty = true;
        Changes++;
        return Table(index);
    }

    private bool TryWriteRun(int first, int count, Span<byte> staging, out Exception? failure)
    {
        for (int i = 0; i < count; i++)
        {
            int index = _frozen[first + i];
            byte* content = _entries[index].PreImage;
            if (content == null)
                content = TablePointer(index);
            new ReadOnlySpan<byte>(content, _tableSize).CopyTo(staging[(i * _tableSize)..]);
        }

        failure = null;
        Monitor.Exit(_gate);
        try
        {
            _device.Write(_frozenOffsets[first], staging[..(count * _tableSize)]);
        }
        catch (BlockException e)
        {
            failure = e;
        }
        finally
        {
            Monitor.Enter(_gate);
        }

        if (failure is not null)
            return false;
        for (int i = 0; i < count; i++)
        {
            ref Entry entry = ref _entries[_frozen[first + i]];
            entry.Frozen = false;
            ReleasePreImage(ref entry);
        }

        _written += count;
        Monitor.PulseAll(_gate);
        return true;
    }

    private void Keep(int from, ref int kept)
    {
        _frozen[kept] = _frozen[from];
        _frozenOffsets[kept++] = _frozenOffsets[from];
    }

    private static void ReleasePreImage(ref Entry entry)
    {
        if (entry.PreImage == null)
            return;
        NativeMemory.AlignedFree(entry.PreImage);
        entry.PreImage = null;
    }
}
