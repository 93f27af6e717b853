// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>
/// One refcount in a refcount block or a slice of one; specification section "Refcount block entry". Widths below a
/// byte count from the least significant bit; the others are big-endian.
/// </summary>
internal static class RefcountField
{
    /// <summary>The largest refcount of width 2^<paramref name="order"/> bits.</summary>
    public static ulong Max(int order) => order == 6 ? ulong.MaxValue : (1UL << (1 << order)) - 1;

    /// <summary>Refcount number <paramref name="index"/>; <paramref name="order"/> is log2 of the width.</summary>
    public static ulong Read(ReadOnlySpan<byte> block, int index, int order)
    {
        switch (order)
        {
            case 4:
                return BigEndian.U16(block, index * 2);
            case 5:
                return BigEndian.U32(block, index * 4);
            case 6:
                return BigEndian.U64(block, index * 8);
            default:
                int bit = index << order;
                return ((ulong)block[bit >> 3] >> (bit & 7)) & Max(order);
        }
    }

    /// <summary>Sets refcount number <paramref name="index"/>, at most <see cref="Max"/>.</summary>
    public static void Write(Span<byte> block, int index, int order, ulong value)
    {
        switch (order)
        {
            case 4:
                block[index * 2] = (byte)(value >> 8);
                block[(index * 2) + 1] = (byte)value;
                break;
            case 5:
                BigEndian.U32(block, index * 4, (uint)value);
                break;
            case 6:
                BigEndian.U64(block, index * 8, value);
                break;
            default:
                int bit = index << order;
                ref byte target = ref block[bit >> 3];
                target = (byte)((target & ~(int)(Max(order) << (bit & 7))) | (int)(value << (bit & 7)));
                break;
        }
    }
}
