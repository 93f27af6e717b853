// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>
/// Encodes the fields of fixed place of a header; specification section "Header". Names and extensions, whose place
/// they give, are not among them.
/// </summary>
internal static class Qcow2HeaderWriter
{
    /// <summary>Bytes of the fields in version 2.</summary>
    public const int Version2Bytes = 72;

    /// <summary>Bytes of the fields in version 3, the compression type and its padding among them.</summary>
    public const int Version3Bytes = 112;

    /// <summary>How many bytes <see cref="Encode"/> writes for this header.</summary>
    public static int FieldsBytes(Qcow2Header header) => header.Version == 2 ? Version2Bytes : header.HeaderLength;

    /// <summary>
    /// Writes the fields into <paramref name="bytes"/>, at least 112 long. What a longer header holds after them is not
    /// touched.
    /// </summary>
    public static void Encode(Qcow2Header header, Span<byte> bytes)
    {
        BigEndian.U32(bytes, 0, Qcow2HeaderReader.Magic);
        BigEndian.U32(bytes, 4, (uint)header.Version);
        BigEndian.U64(bytes, 8, (ulong)header.BackingNameOffset);
        BigEndian.U32(bytes, 16, (uint)header.BackingNameBytes);
        BigEndian.U32(bytes, 20, (uint)header.ClusterBits);
        BigEndian.U64(bytes, 24, (ulong)header.Size);
        BigEndian.U32(bytes, 32, (uint)header.EncryptionMethod);
        BigEndian.U32(bytes, 36, (uint)header.L1Size);
        BigEndian.U64(bytes, 40, (ulong)header.L1Offset);
        BigEndian.U64(bytes, 48, (ulong)header.RefcountTableOffset);
        BigEndian.U32(bytes, 56, (uint)header.RefcountTableClusters);
        BigEndian.U32(bytes, 60, (uint)header.SnapshotCount);
        BigEndian.U64(bytes, 64, (ulong)header.SnapshotsOffset);
        if (header.Version == 2)
            return;
        BigEndian.U64(bytes, 72, header.Incompatible);
        BigEndian.U64(bytes, 80, header.Compatible);
        BigEndian.U64(bytes, 88, header.Autoclear);
        BigEndian.U32(bytes, 96, (uint)header.RefcountOrder);
        BigEndian.U32(bytes, 100, (uint)header.HeaderLength);
        if (header.HeaderLength > 104)
            bytes[104] = (byte)header.Compression;
    }
}
