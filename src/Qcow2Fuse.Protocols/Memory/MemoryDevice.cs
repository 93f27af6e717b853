// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Protocols.Memory;

/// <summary>
/// A growing device in memory. Only written chunks of 64 KiB take memory, so its length may be anything; a chunk that
/// is zeroed or discarded as a whole is dropped.
/// </summary>
public sealed class MemoryDevice : BlockDevice
{
    /// <summary>Bytes per chunk: the unit in which memory is taken and extents are told apart.</summary>
    public const int ChunkSize = 1 << ChunkShift;

    private const int ChunkShift = 16;

    private readonly Dictionary<long, byte[]> _chunks = [];
    private readonly Lock _lock = new();
    private readonly long _lengthMax;
    private long _length;

    /// <summary>Creates a device of <paramref name="length"/> zero bytes.</summary>
    /// <param name="length">The size in bytes.</param>
    /// <param name="lengthMax">Growing past this many bytes fails with <see cref="BlockErrorKind.NoSpace"/>.</param>
    /// <param name="name">What messages call it.</param>
    public MemoryDevice(long length = 0, long lengthMax = long.MaxValue, string name = "memory")
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfLessThan(lengthMax, length);
        _length = length;
        _lengthMax = lengthMax;
        Name = name;
    }

    /// <inheritdoc/>
    public override string Name { get; }

    /// <inheritdoc/>
    public override long Length => Volatile.Read(ref _length);

    /// <inheritdoc/>
    public override bool IsReadOnly => ReadOnly;

    /// <summary>Whether changes are refused; may be set at any time.</summary>
    public bool ReadOnly { get; set; }

    /// <inheritdoc/>
    public override BlockLimits Limits => new(1, GrowsOnWrite: true);

    /// <inheritdoc/>
    public override long AllocatedBytes
    {
        get
        {
            lock (_lock)
                return (long)_chunks.Count << ChunkShift;
        }
    }

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        lock (_lock)
        {
            CheckRange(offset, destination.Length);
            while (!destination.IsEmpty)
            {
                int within = (int)(offset & (ChunkSize - 1));
                int step = Math.Min(destination.Length, ChunkSize - within);
                if (_chunks.TryGetValue(offset >> ChunkShift, out byte[]? chunk))
                    chunk.AsSpan(within, step).CopyTo(destination);
                else
                    destination[..step].Clear();
                offset += step;
                destination = destination[step..];
            }
        }
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        CheckWritable();
        lock (_lock)
        {
            GrowLocked(offset, source.Length);
            while (!source.IsEmpty)
            {
                int within = (int)(offset & (ChunkSize - 1));
                int step = Math.Min(source.Length, ChunkSize - within);
                source[..step].CopyTo(ChunkLocked(offset >> ChunkShift).AsSpan(within));
                offset += step;
                source = source[step..];
            }
        }
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        CheckWritable();
        lock (_lock)
        {
            GrowLocked(offset, length);
            ClearLocked(offset, length, drop: mayUnmap);
        }
    }

    /// <inheritdoc/>
    public override void Discard(long offset, long length)
    {
        CheckWritable();
        lock (_lock)
        {
            CheckRange(offset, length);
            ClearLocked(offset, length, drop: true);
        }
    }

    /// <inheritdoc/>
    public override void Flush()
    {
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        lock (_lock)
        {
            CheckRange(offset, length);
            long first = offset >> ChunkShift;
            bool isData = _chunks.ContainsKey(first);
            long end = (isData ? DataEndLocked(first) : HoleEndLocked(first)) ?? long.MaxValue;
            long run = Math.Min(length, end - offset);
            return isData
                ? new Extent(offset, run, ExtentKind.Data, offset, Depth: 0)
                : new Extent(offset, run, ExtentKind.Zero, HostOffset: -1, Depth: 0);
        }
    }

    /// <inheritdoc/>
    public override void Resize(long length)
    {
        CheckWritable();
        lock (_lock)
        {
            ArgumentOutOfRangeException.ThrowIfNegative(length);
            if (length > _lengthMax)
                throw NoSpace();
            if (length < _length)
                ClearLocked(length, _length - length, drop: true);
            _length = length;
        }
    }

    private long? DataEndLocked(long chunk)
    {
        while (_chunks.ContainsKey(chunk))
            chunk++;
        return OffsetOf(chunk);
    }

    private long? HoleEndLocked(long chunk)
    {
        long? next = null;
        foreach (long index in _chunks.Keys)
        {
            if (index > chunk && !(index > next))
                next = index;
        }

        return next is { } found ? OffsetOf(found) : null;
    }

    private static long? OffsetOf(long chunk) => chunk > long.MaxValue >> ChunkShift ? null : chunk << ChunkShift;

    private void GrowLocked(long offset, long length)
    {
        if (offset < 0 || length < 0 || length > long.MaxValue - offset)
            throw BlockException.OutOfRange(Name, Length, offset, length);
        if (length > 0 && offset + length > _length)
        {
            if (offset + length > _lengthMax)
                throw NoSpace();
            _length = offset + length;
        }
    }

    private void ClearLocked(long offset, long length, bool drop)
    {
        if (drop && length >> ChunkShift > _chunks.Count)
        {
            // Cheaper to look at what there is than at every place where something could be.
            foreach (long index in _chunks.Keys)
            {
                long start = index << ChunkShift;
                long from = Math.Max(offset, start);
                long step = Math.Min(offset + length - start, ChunkSize) - (from - start);
                if (step > 0)
                    ClearInChunkLocked(from, (int)step, drop);
            }

            return;
        }

        while (length > 0)
        {
            int step = (int)Math.Min(length, ChunkSize - (offset & (ChunkSize - 1)));
            ClearInChunkLocked(offset, step, drop);
            offset += step;
            length -= step;
        }
    }

    private void ClearInChunkLocked(long offset, int length, bool drop)
    {
        long index = offset >> ChunkShift;
        int within = (int)(offset & (ChunkSize - 1));
        bool whole = length == ChunkSize || (within == 0 && offset + length == _length);
        if (drop && whole)
            _chunks.Remove(index);
        else if (!drop)
            ChunkLocked(index).AsSpan(within, length).Clear();
        else if (_chunks.TryGetValue(index, out byte[]? chunk))
            chunk.AsSpan(within, length).Clear();
    }

    private byte[] ChunkLocked(long index)
    {
        if (!_chunks.TryGetValue(index, out byte[]? chunk))
        {
            chunk = new byte[ChunkSize];
            _chunks.Add(index, chunk);
        }

        return chunk;
    }

    private BlockException NoSpace() =>
        new(BlockErrorKind.NoSpace, $"{Name}: no space left, it holds at most {_lengthMax} bytes");
}
