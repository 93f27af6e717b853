// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Block.Ranges;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// Reads and writes of any offset, length and memory on a descriptor opened with O_DIRECT. What is not aligned goes
/// through a pooled buffer, and a block that is written in part is read first.
/// </summary>
/// <remarks>
/// A read-modify-write excludes every other change of its blocks, or it could put back old bytes over a neighbour's
/// new ones. Changes of whole blocks do not exclude each other. Results are bytes or −errno.
/// </remarks>
internal sealed unsafe class DirectFile(int fd, int memoryAlignment, int offsetAlignment)
{
    private const int BounceMax = 1 << 20;

    private readonly RangeLocks _changes = new();

    /// <summary>What offsets and lengths must be multiples of to pass without a buffer; a power of two.</summary>
    public int Alignment => offsetAlignment;

    /// <summary>Keeps read-modify-writes away from a range that is going to be changed by other means.</summary>
    public RangeLocks.Holder Change(long offset, long length)
    {
        long start = RoundDown(offset);
        return _changes.Acquire(start, RoundUp(offset + length) - start, exclusive: false);
    }

    /// <summary>
    /// Whether somebody else may read or write a range on the descriptor without a buffer, from memory as
    /// <see cref="PlainRun.MemoryAlignment"/> says; a write keeps read-modify-writes away until the holder is disposed.
    /// </summary>
    public bool TryHold(long offset, int length, bool isWrite, out RangeLocks.Holder holder)
    {
        holder = default;
        if (!IsAligned(offset, length) || memoryAlignment > PlainRun.MemoryAlignment)
            return false;
        return !isWrite || _changes.TryAcquire(offset, length, exclusive: false, out holder);
    }

    /// <summary>Reads until the span is full or the file ends.</summary>
    public int Read(long offset, Span<byte> destination)
    {
        fixed (byte* start = destination)
        {
            if (IsAligned(offset, destination.Length) && IsAligned(start))
                return LinuxFile.Read(fd, destination, offset, offsetAlignment);
        }

        long end = offset + destination.Length;
        long at = RoundDown(offset);
        using PooledBuffer bounce = BufferPool.Shared.Rent((int)Math.Min(RoundUp(end) - at, BounceMax));
        int done = 0;
        while (done < destination.Length)
        {
            int piece = (int)Math.Min(RoundUp(end) - at, bounce.Span.Length);
            int got = LinuxFile.Read(fd, bounce.Span[..piece], at, offsetAlignment);
            if (got < 0)
                return got;
            int skip = (int)(offset + done - at);
            int useful = Math.Min(got - skip, destination.Length - done);
            if (useful <= 0)
                break;
            bounce.Span.Slice(skip, useful).CopyTo(destination[done..]);
            done += useful;
            if (got < piece)
                break;
            at += piece;
        }

        return done;
    }

    /// <summary>Writes the whole span. The file may end up to one alignment later than the span does.</summary>
    public int Write(long offset, ReadOnlySpan<byte> source)
    {
        long start = RoundDown(offset);
        long end = RoundUp(offset + source.Length);
        bool partial = !IsAligned(offset, source.Length);
        using RangeLocks.Holder held = _changes.Acquire(start, end - start, exclusive: partial);
        fixed (byte* memory = source)
        {
            if (!partial && IsAligned(memory))
                return LinuxFile.Write(fd, source, offset);
        }

        using PooledBuffer bounce = BufferPool.Shared.Rent((int)Math.Min(end - start, BounceMax));
        for (long at = start; at < end;)
        {
            Span<byte> piece = bounce.Span[..(int)Math.Min(end - at, bounce.Span.Length)];
            long from = Math.Max(at, offset);
            long to = Math.Min(at + piece.Length, offset + source.Length);
            int result = LoadEdges(at, piece, keepHead: from > at, keepTail: to < at + piece.Length);
            if (result < 0)
                return result;
            source[(int)(from - offset)..(int)(to - offset)].CopyTo(piece[(int)(from - at)..]);
            result = LinuxFile.Write(fd, piece, at);
            if (result < 0)
                return result;
            at += piece.Length;
        }

        return 0;
    }

    /// <summary>Writes three spans as one request if all are aligned; otherwise false, and nothing is done.</summary>
    public bool TryWriteParts(
        long offset, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, ReadOnlySpan<byte> tail, out int result)
    {
        fixed (byte* p0 = head, p1 = body, p2 = tail)
        {
            bool aligned = IsAligned(offset, head.Length | body.Length | tail.Length)
                && IsAligned(p0) && IsAligned(p1) && IsAligned(p2);
            result = 0;
            if (!aligned)
                return false;
            using RangeLocks.Holder held = Change(offset, (long)head.Length + body.Length + tail.Length);
            result = LinuxFile.Write(fd, head, body, tail, offset);
            return true;
        }
    }

    /// <summary>Writes inside one block through another descriptor of the file, which has the page cache.</summary>
    public int WriteInBlock(int cachedFd, long offset, ReadOnlySpan<byte> source)
    {
        using RangeLocks.Holder held = _changes.Acquire(RoundDown(offset), offsetAlignment, exclusive: true);
        return LinuxFile.Write(cachedFd, source, offset);
    }

    /// <summary>Fetches the first and the last block of a piece if part of them is to stay as it is.</summary>
    private int LoadEdges(long at, Span<byte> piece, bool keepHead, bool keepTail)
    {
        int result = keepHead ? Load(at, piece[..offsetAlignment]) : 0;
        bool sameBlock = keepHead && piece.Length == offsetAlignment;
        if (result >= 0 && keepTail && !sameBlock)
            result = Load(at + piece.Length - offsetAlignment, piece[^offsetAlignment..]);
        return result;
    }

    /// <summary>Reads a block; what lies past the end of the file is zero.</summary>
    private int Load(long offset, Span<byte> block)
    {
        int got = LinuxFile.Read(fd, block, offset, offsetAlignment);
        if (got >= 0)
            block[got..].Clear();
        return got;
    }

    private bool IsAligned(long offset, int length) => ((offset | (uint)length) & (offsetAlignment - 1)) == 0;

    private bool IsAligned(byte* memory) => ((nuint)memory & (nuint)(memoryAlignment - 1)) == 0;

    private long RoundDown(long offset) => offset & ~(offsetAlignment - 1L);

    private long RoundUp(long offset) => (offset + offsetAlignment - 1) & ~(offsetAlignment - 1L);
}
