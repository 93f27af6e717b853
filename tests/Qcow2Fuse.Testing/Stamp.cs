// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Testing;

/// <summary>
/// Bytes that say who wrote them and where: a function of a tag and the position on the guest's disk.
/// </summary>
public static class Stamp
{
    /// <summary>
    /// Tags with this bit have bytes that compress well: they repeat within every 64 bytes, and so say a little less
    /// about the position.
    /// </summary>
    public const ulong Compressible = 1UL << 63;

    private const int CompressibleShift = 3;

    /// <summary>Fills <paramref name="target"/> with what <paramref name="tag"/> writes at an offset.</summary>
    public static void Fill(Span<byte> target, long offset, ulong tag)
    {
        ulong seed = SeededRandom.Mix(tag);
        int shift = (tag & Compressible) != 0 ? CompressibleShift : 0;
        while (!target.IsEmpty)
        {
            if (offset % 8 == 0 && target.Length >= 8)
            {
                Span<ulong> words = MemoryMarshal.Cast<byte, ulong>(target);
                for (int i = 0; i < words.Length; i++)
                    words[i] = Word(seed, ((offset / 8) + i) >> shift);
                offset += words.Length * 8L;
                target = target[(words.Length * 8)..];
                continue;
            }

            target[0] = (byte)(Word(seed, (offset / 8) >> shift) >> (int)(offset % 8 * 8));
            target = target[1..];
            offset++;
        }
    }

    /// <summary>A new array of what <paramref name="tag"/> writes at an offset.</summary>
    public static byte[] Bytes(long offset, int length, ulong tag)
    {
        byte[] bytes = new byte[length];
        Fill(bytes, offset, tag);
        return bytes;
    }

    private static ulong Word(ulong seed, long index) => (seed ^ (ulong)index) * 0x9E3779B97F4A7C15 ^ (seed >> 17);
}
