// SPDX-License-Identifier: MIT
using System.Buffers.Binary;

namespace Qcow2Fuse.Qcow2;

/// <summary>
/// Refcounts of 1 to 64 bits inside a piece of a refcount block; specification section "Host cluster management".
/// Those narrower than a byte begin at its least significant bit.
/// </summary>
internal static class RefcountField
{
    /// <summary>The refcount number <paramref name="index"/> of 2^<paramref name="order"/> bits.</summary>
    public static ulong Get(ReadOnlySpan<byte> bytes, int index, int order) => order switch
    {
        6 => BinaryPrimitives.ReadUInt64BigEndian(bytes[(index * 8)..]),
        5 => BinaryPrimitives.ReadUInt32BigEndian(bytes[(index * 4)..]),
        4 => BinaryPrimitives.ReadUInt16BigEndian(bytes[(index * 2)..]),
        3 => bytes[index],
        _ => ((ulong)bytes[index << order >> 3] >> ((index << order) & 7)) & Max(order),
    };

    /// <summary>Sets a refcount, at most <see cref="Max"/>.</summary>
    public static void Set(Span<byte> bytes, int index, int order, ulong value)
    {
        switch (order)
        {
            case 6:
                BinaryPrimitives.WriteUInt64BigEndian(bytes[(index * 8)..], value);
                break;
            case 5:
                BinaryPrimitives.WriteUInt32BigEndian(bytes[(index * 4)..], (uint)value);
                break;
            case 4:
                BinaryPrimitives.WriteUInt16BigEndian(bytes[(index * 2)..], (ushort)value);
                break;
            case 3:
                bytes[index] = (byte)value;
                break;
            default:
                int shift = (index << order) & 7;
                ref byte field = ref bytes[index << order >> 3];
                field = (byte)((field & ~((int)Max(order) << shift)) | ((int)value << shift));
                break;
        }
    }

    /// <summary>The largest refcount of 2^<paramref name="order"/> bits.</summary>
    public static ulong Max(int order) => order == 6 ? ulong.MaxValue : (1UL << (1 << order)) - 1;
}
