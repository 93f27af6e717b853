// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;

namespace Qcow2Fuse.Qcow2.Bitmaps;

/// <summary>
/// One bit for each granule of a disk, in native memory and in the order of the specification: bit i is bit i mod 8
/// of byte i / 8. Bits behind the last granule are zero. Memory that was never set is not touched.
/// </summary>
internal sealed unsafe class GranuleBits : IDisposable
{
    private readonly MemoryBudget _memory;
    private readonly MemoryCharge _charge;
    private readonly string _name;
    private byte* _bytes;

    /// <summary>All bits zero.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NoMemory"/>.</exception>
    public GranuleBits(long diskBytes, int granularityBits, MemoryBudget memory, string name)
    {
        GranularityBits = granularityBits;
        Count = CountFor(diskBytes, granularityBits);
        _memory = memory;
        _name = name;
        _charge = memory.Take(Length, name, "a bitmap");
        _bytes = (byte*)NativeMemory.AllocZeroed((nuint)Math.Max(1, Length));
    }

    /// <summary>log2 of the bytes a bit stands for.</summary>
    public int GranularityBits { get; }

    /// <summary>Number of bits.</summary>
    public long Count { get; }

    /// <summary>Number of bytes that hold them.</summary>
    public long Length => (Count + 7) >> 3;

    /// <summary>Bits for a disk.</summary>
    public static long CountFor(long diskBytes, int granularityBits) =>
        diskBytes == 0 ? 0 : ((diskBytes - 1) >> granularityBits) + 1;

    /// <summary>Bytes for a disk.</summary>
    public static long LengthFor(long diskBytes, int granularityBits) =>
        (CountFor(diskBytes, granularityBits) + 7) >> 3;

    /// <summary>Bytes of the bitmap, at most 2^31−1 of them.</summary>
    public Span<byte> Bytes(long start, long length)
    {
        if (start < 0 || length < 0 || length > Length - start)
            throw new ArgumentOutOfRangeException(nameof(start), start, "Beyond the end of the bitmap.");
        return new Span<byte>(_bytes + start, checked((int)length));
    }

    /// <summary>Whether a bit is set.</summary>
    public bool this[long index] => (Bytes(index >> 3, 1)[0] >> (int)(index & 7) & 1) != 0;

    /// <summary>Sets the bits of all granules that a range of the disk touches; what lies behind the last is left
    /// out.</summary>
    public void SetRange(long offset, long length)
    {
        if (length > 0)
            SetBits(offset >> GranularityBits, Math.Min(Count, ((offset + length - 1) >> GranularityBits) + 1));
    }

    /// <summary>Sets the bits from <paramref name="first"/> to before <paramref name="end"/>.</summary>
    public void SetBits(long first, long end)
    {
        if (first >= end)
            return;
        if (first < 0 || end > Count)
            throw new ArgumentOutOfRangeException(nameof(first), first, "Beyond the end of the bitmap.");
        long firstByte = first >> 3, lastByte = (end - 1) >> 3;
        byte head = (byte)(0xff << (int)(first & 7));
        byte tail = (byte)(0xff >> (int)(7 - ((end - 1) & 7)));
        if (firstByte == lastByte)
        {
            _bytes[firstByte] |= (byte)(head & tail);
            return;
        }

        _bytes[firstByte] |= head;
        NativeMemory.Fill(_bytes + firstByte + 1, (nuint)(lastByte - firstByte - 1), 0xff);
        _bytes[lastByte] |= tail;
    }

    /// <summary>Sets all bits to zero.</summary>
    public void Clear() => NativeMemory.Clear(_bytes, (nuint)Length);

    /// <summary>Sets the bits behind the last granule, which a stored bitmap may hold, to zero.</summary>
    public void ClearBehindEnd()
    {
        if ((Count & 7) != 0)
            _bytes[Length - 1] &= (byte)(0xff >> (int)(8 - (Count & 7)));
    }

    /// <summary>Sets every bit whose granule touches a set granule of <paramref name="other"/>, of any granularity.
    /// </summary>
    public void Merge(GranuleBits other)
    {
        if (other.GranularityBits == GranularityBits)
        {
            long common = Math.Min(Length, other.Length);
            for (long i = 0; i < common; i++)
                _bytes[i] |= other._bytes[i];
            ClearBehindEnd();
            return;
        }

        for (long first = other.NextSet(0); first < other.Count;)
        {
            long end = first + 1;
            while (end < other.Count && other[end])
                end += (end & 7) == 0 && end + 8 <= other.Count && other._bytes[end >> 3] == 0xff ? 8 : 1;
            SetRange(first << other.GranularityBits, (end - first) << other.GranularityBits);
            first = other.NextSet(end);
        }
    }

    /// <summary>A copy for a disk of another size; new granules are clear.</summary>
    public GranuleBits CopyFor(long diskBytes)
    {
        var copy = new GranuleBits(diskBytes, GranularityBits, _memory, _name);
        NativeMemory.Copy(_bytes, copy._bytes, (nuint)Math.Min(Length, copy.Length));
        copy.ClearBehindEnd();
        return copy;
    }

    public void Dispose()
    {
        NativeMemory.Free(_bytes);
        _bytes = null;
        _charge.Dispose();
    }

    private long NextSet(long from)
    {
        while (from < Count)
        {
            if ((from & 7) == 0)
            {
                while (from < Count && _bytes[from >> 3] == 0)
                    from += 8;
                if (from >= Count)
                    break;
            }

            if (this[from])
                return from;
            from++;
        }

        return Count;
    }
}
