// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Block.Caching;

/// <summary>What a <see cref="TableCache"/> did since it was made.</summary>
/// <param name="Hits">Requests for a table that was there.</param>
/// <param name="Misses">Reads of tables from the device.</param>
/// <param name="Written">Tables written to the device.</param>
/// <param name="Held">Tables it holds now.</param>
public readonly record struct TableCacheStatistics(long Hits, long Misses, long Written, int Held);

/// <summary>Memory of tables, and giving up those that nobody uses.</summary>
public sealed unsafe partial class TableCache
{
    private long _hits;
    private long _written;
    private int _lastingChunks;

    /// <summary>
    /// Gives up clean tables that were not used since the call before, and the memory that holds nothing any more.
    /// </summary>
    public void DropIdle()
    {
        for (int entry = 0; entry < _used; entry++)
        {
            ref Entry idle = ref _entries[entry];
            if (idle.Offset < 0 || idle.LastUse == _epoch || idle.Pins > 0 || idle.Loading || idle.Dirty || idle.Frozen)
                continue;
            Remove(entry);
            Recycle(entry);
        }

        _epoch++;
        for (int chunk = _lastingChunks; chunk < _chunks.Length; chunk++)
        {
            if (IsUnused(chunk))
                FreeChunk(chunk);
        }
    }

    /// <summary>
    /// Has the kernel find memory for tables of up to <paramref name="bytes"/> now, and keeps it. To be called before
    /// any table is asked for.
    /// </summary>
    public void Populate(long bytes)
    {
        nuint chunkBytes = (nuint)_tableSize << _chunkShift;
        _lastingChunks = (int)Math.Min(_chunks.Length, bytes / (long)chunkBytes);
        for (int chunk = 0; chunk < _lastingChunks; chunk++)
        {
            EnsureChunk(chunk << _chunkShift);
            NativeMemory.Clear(_chunks[chunk], chunkBytes);
        }
    }

    private bool IsUnused(int chunk)
    {
        int first = chunk << _chunkShift;
        int end = Math.Min(first + (1 << _chunkShift), _used);
        for (int entry = first; entry < end; entry++)
        {
            if (_entries[entry].Offset >= 0)
                return false;
        }

        return true;
    }

    private void EnsureChunk(int entry)
    {
        ref byte* chunk = ref _chunks[entry >> _chunkShift];
        if (chunk == null)
            chunk = (byte*)NativeMemory.AlignedAlloc((nuint)_tableSize << _chunkShift, 4096);
    }

    private void FreeChunk(int chunk)
    {
        NativeMemory.AlignedFree(_chunks[chunk]);
        _chunks[chunk] = null;
    }
}
