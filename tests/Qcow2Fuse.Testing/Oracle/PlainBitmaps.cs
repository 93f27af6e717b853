// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Text;

namespace Qcow2Fuse.Testing.Oracle;

/// <summary>A persistent bitmap as an image file holds it.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Flags">Bit 0 in use, bit 1 auto, bit 2 extra data compatible.</param>
/// <param name="GranularityBits">log2 of the bytes a bit stands for.</param>
/// <param name="Bits">A value for every granule of the disk; null for a bitmap in use, which has none.</param>
public sealed record PlainBitmap(string Name, uint Flags, int GranularityBits, bool[]? Bits)
{
    /// <summary>Nobody knows what it should hold.</summary>
    public bool InUse => (Flags & 1) != 0;

    /// <summary>It records writes.</summary>
    public bool Auto => (Flags & 2) != 0;
}

/// <summary>Reads persistent bitmaps from the specification alone (qcow2 specification, "Bitmaps").</summary>
public static class PlainBitmaps
{
    /// <summary>The bitmaps that the autoclear bit vouches for, in the order of the directory.</summary>
    /// <exception cref="PlainReaderException">Something contradicts the specification.</exception>
    public static IReadOnlyList<PlainBitmap> Read(PlainReader reader)
    {
        PlainHeader header = reader.Header;
        List<PlainBitmap> bitmaps = [];
        if ((header.Autoclear & 1) == 0)
            return bitmaps;
        (long start, long length) = header.BitmapDirectory;
        PlainHeader.Require(header.BitmapCount > 0 && length > 0, "autoclear bit 0 without bitmaps");
        PlainHeader.Require(start % header.ClusterSize == 0, "bitmap directory at 0x{0:x}", start);
        byte[] directory = new byte[checked((int)length)];
        reader.File.Read(start, directory);
        int at = 0;
        while (at < directory.Length)
        {
            PlainHeader.Require(at + 24 <= directory.Length, "cut bitmap directory");
            ReadOnlySpan<byte> fields = directory.AsSpan(at);
            int extra = (int)BinaryPrimitives.ReadUInt32BigEndian(fields[20..]);
            int name = BinaryPrimitives.ReadUInt16BigEndian(fields[18..]);
            int size = (24 + extra + name + 7) / 8 * 8;
            PlainHeader.Require(size <= fields.Length && fields[16] == 1, "bitmap directory entry at {0}", at);
            for (int i = 24 + extra + name; i < size; i++)
                PlainHeader.Require(fields[i] == 0, "padding of the bitmap directory at {0}", at + i);
            uint flags = BinaryPrimitives.ReadUInt32BigEndian(fields[12..]);
            bitmaps.Add(new PlainBitmap(
                Encoding.UTF8.GetString(fields.Slice(24 + extra, name)),
                flags,
                fields[17],
                (flags & 1) != 0 ? null : ReadBits(reader, fields)));
            at += size;
        }

        PlainHeader.Require(bitmaps.Count == header.BitmapCount, "{0} bitmaps in the directory", bitmaps.Count);
        return bitmaps;
    }

    private static bool[] ReadBits(PlainReader reader, ReadOnlySpan<byte> fields)
    {
        int clusterSize = reader.Header.ClusterSize;
        long granularity = 1L << fields[17];
        bool[] bits = new bool[(reader.Header.Size + granularity - 1) / granularity];
        long table = checked((long)BinaryPrimitives.ReadUInt64BigEndian(fields));
        long entries = BinaryPrimitives.ReadUInt32BigEndian(fields[8..]);
        long expected = (((bits.Length + 7) / 8) + clusterSize - 1) / clusterSize;
        PlainHeader.Require(entries == expected, "bitmap table of {0} entries, not {1}", entries, expected);
        PlainHeader.Require(table != 0 && table % clusterSize == 0, "bitmap table at 0x{0:x}", table);
        byte[] part = new byte[clusterSize];
        for (long entry = 0; entry < entries; entry++)
        {
            ulong value = reader.Read64(table + (entry * 8));
            long cluster = (long)(value & PlainReader.OffsetMask);
            PlainHeader.Require(
                cluster == 0 ? value <= 1 : value == (ulong)cluster && cluster % clusterSize == 0,
                "bitmap table entry 0x{0:x}", value);
            if (cluster != 0)
                reader.File.Read(cluster, part);
            else
                part.AsSpan().Fill(value == 1 ? (byte)0xFF : (byte)0);
            long first = entry * clusterSize * 8;
            for (int i = 0; i < clusterSize * 8 && first + i < bits.Length; i++)
                bits[first + i] = (part[i / 8] >> (i % 8) & 1) != 0;
        }

        return bits;
    }
}
