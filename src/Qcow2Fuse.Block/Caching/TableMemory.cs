// SPDX-License-Identifier: MIT
using System.Numerics;
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Block.Caching;

/// <summary>Native memory for the tables of a cache, which comes and goes in chunks of several tables.</summary>
internal sealed unsafe class TableMemory
{
    /// <summary>Tables get their memory in pieces of this size, and give it back so.</summary>
    private const int ChunkBytes = 256 * 1024;

    private readonly int _tableSize;
    private readonly int _chunkShift;
    private readonly byte*[] _chunks;
    private int _lastingChunks;

    /// <param name="tableSize">Bytes of a table, a power of two.</param>
    /// <param name="capacity">Tables at most.</param>
    public TableMemory(int tableSize, int capacity)
    {
        _tableSize = tableSize;
        _chunkShift = Math.Max(0, BitOperations.Log2(ChunkBytes) - BitOperations.Log2((uint)tableSize));
        _chunks = new byte*[((capacity - 1) >> _chunkShift) + 1];
    }

    /// <summary>Where the content of an entry is, for which there is memory.</summary>
    public byte* Pointer(int entry) =>
        _chunks[entry >> _chunkShift] + ((long)(entry & ((1 << _chunkShift) - 1)) * _tableSize);

    /// <summary>The content of an entry, for which there is memory.</summary>
    public Span<byte> Table(int entry) => new(Pointer(entry), _tableSize);

    /// <summary>Sees to it that there is memory for an entry.</summary>
    public void Ensure(int entry)
    {
        ref byte* chunk = ref _chunks[entry >> _chunkShift];
        if (chunk == null)
            chunk = (byte*)NativeMemory.AlignedAlloc((nuint)_tableSize << _chunkShift, 4096);
    }

    /// <summary>Has the kernel find memory for tables of up to <paramref name="bytes"/> now, and keeps it.</summary>
    public void Populate(long bytes)
    {
        nuint chunkBytes = (nuint)_tableSize << _chunkShift;
        _lastingChunks = (int)Math.Min(_chunks.Length, bytes / (long)chunkBytes);
        for (int chunk = 0; chunk < _lastingChunks; chunk++)
        {
            Ensure(chunk << _chunkShift);
            NativeMemory.Clear(_chunks[chunk], chunkBytes);
        }
    }

    /// <summary>Gives back the memory that holds no table, but for what was populated.</summary>
    public void FreeUnused(TableList tables)
    {
        for (int chunk = _lastingChunks; chunk < _chunks.Length; chunk++)
        {
            if (IsUnused(chunk, tables))
                Free(chunk);
        }
    }

    /// <summary>Gives all memory back.</summary>
    public void FreeAll()
    {
        for (int chunk = 0; chunk < _chunks.Length; chunk++)
            Free(chunk);
    }

    private bool IsUnused(int chunk, TableList tables)
    {
        int first = chunk << _chunkShift;
        int end = Math.Min(first + (1 << _chunkShift), tables.Used);
        for (int entry = first; entry < end; entry++)
        {
            if (tables[entry].Offset >= 0)
                return false;
        }

        return true;
    }

    private void Free(int chunk)
    {
        NativeMemory.AlignedFree(_chunks[chunk]);
        _chunks[chunk] = null;
    }
}
