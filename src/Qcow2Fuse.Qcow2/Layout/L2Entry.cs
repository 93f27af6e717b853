// SPDX-License-Identifier: MIT
using System.Buffers.Binary;

namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>Bits of L1 entries (specification section "Cluster mapping", "L1 table entry").</summary>
public static class L1Entry
{
    /// <summary>Bits 9 to 55: host offset of the L2 table, 0 where there is none.</summary>
    public const ulong OffsetMask = 0x00ff_ffff_ffff_fe00;

    /// <summary>Bit 63: the L2 table's refcount is exactly one.</summary>
    public const ulong Copied = 1UL << 63;
}

/// <summary>
/// One entry of an L2 table: the descriptor, and the subcluster bitmap where entries are extended; specification
/// sections "L2 table entry", "Standard Cluster Descriptor", "Extended L2 Entries".
/// </summary>
/// <param name="Descriptor">The first eight bytes.</param>
/// <param name="Bitmap">The second eight bytes: low half "allocated", high half "reads as zeroes"; 0 if
/// standard.</param>
public readonly record struct L2Entry(ulong Descriptor, ulong Bitmap)
{
    /// <summary>Bits 9 to 55: host offset of the cluster, 0 where there is none.</summary>
    public const ulong OffsetMask = 0x00ff_ffff_ffff_fe00;

    /// <summary>Bit 63: the cluster's refcount is exactly one, so it may be written in place.</summary>
    public const ulong CopiedFlag = 1UL << 63;

    /// <summary>Bit 62: a compressed cluster descriptor.</summary>
    public const ulong CompressedFlag = 1UL << 62;

    /// <summary>Bit 0 of a standard descriptor in version 3: the cluster reads as zeroes.</summary>
    public const ulong ZeroFlag = 1;

    /// <summary>The bitmap of a cluster that reads as zeroes everywhere.</summary>
    public const ulong AllZero = 0xffff_ffff_0000_0000;

    /// <summary>An entry that maps nothing.</summary>
    public static L2Entry Empty => default;

    /// <summary>Whether the cluster is compressed (bit 62).</summary>
    public bool IsCompressed => (Descriptor & CompressedFlag) != 0;

    /// <summary>Whether the refcount of the cluster is exactly one (bit 63).</summary>
    public bool IsCopied => (Descriptor & CopiedFlag) != 0;

    /// <summary>The host cluster; meaningful where not compressed.</summary>
    public HostOffset Host => new((long)(Descriptor & OffsetMask));

    /// <summary>Whether a host cluster (not a compressed one) belongs to the entry.</summary>
    public bool HasHost => !IsCompressed && (Descriptor & OffsetMask) != 0;

    /// <summary>
    /// Whether a cluster of the file with the guest data belongs to the entry. In an external data file offset 0 is the
    /// place of guest cluster 0; the copied flag says that it is in use.
    /// </summary>
    public bool HasHostIn(Qcow2Geometry geometry) =>
        HasHost || (geometry.DataIsExternal && IsCopied && !IsCompressed);

    /// <summary>Reads entry <paramref name="index"/> of a slice.</summary>
    public static L2Entry Read(ReadOnlySpan<byte> slice, int index, Qcow2Geometry geometry)
    {
        ReadOnlySpan<byte> entry = slice.Slice(index * geometry.L2EntryBytes, geometry.L2EntryBytes);
        return new L2Entry(
            BinaryPrimitives.ReadUInt64BigEndian(entry),
            geometry.ExtendedL2 ? BinaryPrimitives.ReadUInt64BigEndian(entry[8..]) : 0);
    }

    /// <summary>Writes the entry as number <paramref name="index"/> of a slice.</summary>
    public void Write(Span<byte> slice, int index, Qcow2Geometry geometry)
    {
        Span<byte> entry = slice.Slice(index * geometry.L2EntryBytes, geometry.L2EntryBytes);
        BinaryPrimitives.WriteUInt64BigEndian(entry, Descriptor);
        if (geometry.ExtendedL2)
            BinaryPrimitives.WriteUInt64BigEndian(entry[8..], Bitmap);
    }

    /// <summary>
    /// The "allocated" bits of subclusters <paramref name="first"/> to before <paramref name="end"/>.
    /// </summary>
    public static ulong AllocatedBits(int first, int end) =>
        (ulong)(uint)((ulong.MaxValue << first) & ~(end >= 64 ? 0 : ulong.MaxValue << end));

    /// <summary>
    /// The "reads as zeroes" bits of subclusters <paramref name="first"/> to before <paramref name="end"/>.
    /// </summary>
    public static ulong ZeroBits(int first, int end) => AllocatedBits(first, end) << 32;

    /// <summary>
    /// What subcluster <paramref name="index"/> (0 in images without subclusters) of this cluster is.
    /// </summary>
    public SubclusterType TypeOf(int index, Qcow2Geometry geometry)
    {
        if (IsCompressed)
            return SubclusterType.Compressed;
        bool hasHost = HasHostIn(geometry);
        if (!geometry.ExtendedL2)
        {
            if ((Descriptor & ZeroFlag) == 0)
                return hasHost ? SubclusterType.Normal : SubclusterType.UnallocatedPlain;
            if (geometry.Version < 3)
                return SubclusterType.Invalid;
            return hasHost ? SubclusterType.ZeroAllocated : SubclusterType.ZeroPlain;
        }

        uint allocated = (uint)Bitmap;
        uint zero = (uint)(Bitmap >> 32);
        if ((allocated & zero) != 0 || (allocated != 0 && !hasHost))
            return SubclusterType.Invalid;
        uint bit = 1u << index;
        if ((allocated & bit) != 0)
            return SubclusterType.Normal;
        if ((zero & bit) != 0)
            return hasHost ? SubclusterType.ZeroAllocated : SubclusterType.ZeroPlain;
        return hasHost ? SubclusterType.UnallocatedAllocated : SubclusterType.UnallocatedPlain;
    }
}

/// <summary>Where a compressed cluster lies ("Compressed Clusters Descriptor").</summary>
/// <param name="Host">Byte offset of its first byte, not aligned.</param>
/// <param name="BytesMax">Bytes up to the end of its last 512-byte sector; the stream may end earlier.</param>
public readonly record struct CompressedExtent(HostOffset Host, int BytesMax)
{
    /// <summary>Decodes a descriptor.</summary>
    public static CompressedExtent Decode(ulong descriptor, Qcow2Geometry geometry)
    {
        ulong offset = descriptor & ((1UL << geometry.CompressedOffsetBits) - 1);
        int sectorBits = 62 - geometry.CompressedOffsetBits;
        int sectors = (int)((descriptor >> geometry.CompressedOffsetBits) & ((1UL << sectorBits) - 1)) + 1;
        return new CompressedExtent(new HostOffset((long)offset), (sectors * 512) - (int)(offset & 511));
    }

    /// <summary>
    /// The descriptor of <paramref name="length"/> compressed bytes at <paramref name="host"/>, at most a cluster;
    /// false where the offset has more bits than a descriptor holds.
    /// </summary>
    public static bool TryEncode(HostOffset host, int length, Qcow2Geometry geometry, out ulong descriptor)
    {
        ulong offset = (ulong)host.Value;
        ulong moreSectors = ((offset + (ulong)length - 1) >> 9) - (offset >> 9);
        descriptor = L2Entry.CompressedFlag | (moreSectors << geometry.CompressedOffsetBits) | offset;
        return offset >> geometry.CompressedOffsetBits == 0;
    }
}
