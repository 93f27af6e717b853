// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using Qcow2Fuse.Protocols.Memory;

namespace Qcow2Fuse.Testing;

/// <summary>Image files of a small disk with as many snapshots or bitmaps as a test wants, and names as long.</summary>
public static class NamesImage
{
    private const int Cluster = 65536;
    private const int DiskBytes = 1 << 20;
    private const int Table = 4 * Cluster;

    /// <summary>Snapshots of the empty disk with the ids 1, 2 and so on, filled up with dots.</summary>
    public static MemoryDevice WithSnapshots(int count, int idBytes, int nameBytes)
    {
        int padding = -(64 + idBytes + nameBytes) & 7;
        byte[] entry = new byte[64 + idBytes + nameBytes + padding];
        U64(entry, 0, 3 * Cluster);
        U32(entry, 8, 1);
        U16(entry, 12, (ushort)idBytes);
        U16(entry, 14, (ushort)nameBytes);
        U32(entry, 36, 24);
        U64(entry, 48, DiskBytes);
        U64(entry, 56, ulong.MaxValue);
        MemoryDevice file = NewFile((long)count * entry.Length);
        byte[] header = Header();
        U32(header, 60, (uint)count);
        U64(header, 64, Table);
        file.Write(0, header);
        for (int i = 0; i < count; i++)
        {
            Name(entry.AsSpan(64, idBytes), "", i + 1);
            Name(entry.AsSpan(64 + idBytes, nameBytes), "s", i + 1);
            file.Write(Table + ((long)i * entry.Length), entry);
        }

        return file;
    }

    /// <summary>Bitmaps that record nothing, called b1, b2 and so on, filled up with dots.</summary>
    public static MemoryDevice WithBitmaps(int count, int nameBytes)
    {
        byte[] entry = new byte[(24 + nameBytes + 7) & ~7];
        U64(entry, 0, 3 * Cluster);
        U32(entry, 8, 1);
        entry[16] = 1;
        entry[17] = 16;
        U16(entry, 18, (ushort)nameBytes);
        long bytes = (long)count * entry.Length;
        MemoryDevice file = NewFile(bytes);
        byte[] header = Header();
        U64(header, 88, 1);
        U32(header, 104, 0x23852875);
        U32(header, 108, 24);
        U32(header, 112, (uint)count);
        U64(header, 120, (ulong)bytes);
        U64(header, 128, Table);
        file.Write(0, header);
        for (int i = 0; i < count; i++)
        {
            Name(entry.AsSpan(24, nameBytes), "b", i + 1);
            file.Write(Table + ((long)i * entry.Length), entry);
        }

        return file;
    }

    private static MemoryDevice NewFile(long tableBytes)
    {
        MemoryDevice file = new((Table + tableBytes + Cluster - 1) & -Cluster);
        byte[] refcounts = new byte[8];
        U64(refcounts, 0, 2 * Cluster);
        file.Write(Cluster, refcounts);
        byte[] counts = new byte[Cluster];
        for (int i = 0; i < Math.Min(file.Length / Cluster, Cluster / 2); i++)
            U16(counts, i * 2, 1);
        file.Write(2 * Cluster, counts);
        return file;
    }

    private static byte[] Header()
    {
        byte[] header = new byte[512];
        U32(header, 0, 0x5146_49fb);
        U32(header, 4, 3);
        U32(header, 20, 16);
        U64(header, 24, DiskBytes);
        U32(header, 36, 1);
        U64(header, 40, 3 * Cluster);
        U64(header, 48, Cluster);
        U32(header, 56, 1);
        U32(header, 96, 4);
        U32(header, 100, 104);
        return header;
    }

    private static void Name(Span<byte> target, string start, int number)
    {
        target.Fill((byte)'.');
        byte[] name = Encoding.ASCII.GetBytes(start + number.ToString(CultureInfo.InvariantCulture));
        name.AsSpan(0, Math.Min(name.Length, target.Length)).CopyTo(target);
    }

    private static void U16(byte[] bytes, int at, ushort value) =>
        BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(at), value);

    private static void U32(byte[] bytes, int at, uint value) =>
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(at), value);

    private static void U64(byte[] bytes, int at, ulong value) =>
        BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(at), value);
}
