// SPDX-License-Identifier: MIT
using System.Numerics;
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>Gets a piece of a table that may hold something, with its host offset in bytes.</summary>
internal delegate void PieceVisitor(long offset, ReadOnlySpan<byte> piece);

/// <summary>
/// Reads tables of any size in pieces of at most 1 MiB. What the storage says is a hole is not read, so that a file of
/// holes costs nothing.
/// </summary>
/// <param name="file">The image file.</param>
internal sealed class MetadataReader(BlockDevice file)
{
    private const int PieceBytesMax = 1 << 20;

    /// <summary>
    /// Visits [<paramref name="offset"/>, +<paramref name="length"/>) in ascending order. Pieces begin and end at
    /// multiples of 512 from <paramref name="offset"/>; holes are left out, and past the end of the file all is zero.
    /// </summary>
    /// <exception cref="BlockException">A piece cannot be read.</exception>
    public void Visit(long offset, long length, PieceVisitor visitor)
    {
        long end = offset + length;
        using PooledBuffer buffer = BufferPool.Shared.Rent((int)Math.Min(length, PieceBytesMax));
        for (long at = offset; at < end;)
        {
            long inside = Math.Min(end, file.Length) - at;
            if (inside <= 0)
                return;
            Extent extent = file.GetExtent(at, inside);
            long run = extent.Length;
            if (extent.Kind is ExtentKind.Zero or ExtentKind.Unallocated)
            {
                // Whole sectors only, so that no entry is cut in two.
                long skipped = run == inside ? end - at : run & ~511L;
                if (skipped > 0)
                {
                    at += skipped;
                    continue;
                }

                run = 512;
            }

            int piece = (int)Math.Min(Math.Min((run + 511) & ~511L, PieceBytesMax), end - at);
            Span<byte> bytes = buffer.Span[..piece];
            file.ReadPadded(at, bytes);
            visitor(at, bytes);
            at += piece;
        }
    }

    /// <summary>
    /// The first index at or after <paramref name="index"/> of a word of 8 bytes that is not zero, or their number.
    /// </summary>
    public static int NextNonZero(ReadOnlySpan<byte> bytes, int index)
    {
        ReadOnlySpan<ulong> words = MemoryMarshal.Cast<byte, ulong>(bytes);
        while (index + Vector<ulong>.Count <= words.Length
            && Vector.EqualsAll(new Vector<ulong>(words[index..]), Vector<ulong>.Zero))
        {
            index += Vector<ulong>.Count;
        }

        while (index < words.Length && words[index] == 0)
            index++;
        return index;
    }
}
