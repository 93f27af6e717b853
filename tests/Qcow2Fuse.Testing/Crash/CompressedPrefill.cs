// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.IO.Compression;
using System.Runtime.InteropServices;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>
/// Puts compressed clusters (deflate) into an image with refcounts of 16 bits, packed one behind the other at the end
/// of the file, so that they share host clusters as QEMU's do.
/// </summary>
public static class CompressedPrefill
{
    private const int SectorSize = SectorTable.SectorSize;
    private const int Percent = 40;

    /// <summary>
    /// Compresses some guest clusters that are not allocated but have an L2 table. Returns their guest offsets and
    /// the bytes they hold.
    /// </summary>
    public static IReadOnlyList<(long Guest, byte[] Bytes)> Add(CrashDevice disk, SeededRandom random)
    {
        PlainReader reader = new(disk.Current);
        PlainHeader header = reader.Header;
        int clusterSize = header.ClusterSize;
        long perTable = (long)clusterSize * (clusterSize / header.L2EntrySize);
        long free = (disk.Length + clusterSize - 1) / clusterSize * clusterSize;
        List<(long Guest, byte[] Bytes)> added = [];
        for (long guest = 0; guest + clusterSize <= header.Size; guest += clusterSize)
        {
            long table = (long)(reader.Read64(header.L1Offset + (guest / perTable * 8)) & PlainReader.OffsetMask);
            Place place = reader.Locate(guest);
            if (table == 0 || place.Kind != PlaceKind.Unallocated || place.Entry != 0 || !random.Chance(Percent))
                continue;

            byte[] bytes = Compressible(clusterSize, random);
            byte[] packed = Deflate(bytes);
            if (packed.Length >= clusterSize)
                continue;
            long sectors = ((free % SectorSize) + packed.Length + SectorSize - 1) / SectorSize;
            long end = (free / SectorSize * SectorSize) + (sectors * SectorSize);
            if (!Count(disk, reader, free / clusterSize, (end - 1) / clusterSize))
                break;
            disk.Write(free, packed);
            int shift = 62 - (header.ClusterBits - 8);
            Write64(disk, table + (guest % perTable / clusterSize * header.L2EntrySize),
                PlainReader.CompressedFlag | ((ulong)(sectors - 1) << shift) | (ulong)free);
            added.Add((guest, bytes));
            free += packed.Length;
        }

        return added;
    }

    /// <summary>Every sector is different and none is zero, but each repeats one word.</summary>
    private static byte[] Compressible(int length, SeededRandom random)
    {
        byte[] bytes = new byte[length];
        for (int at = 0; at < length; at += SectorSize)
            MemoryMarshal.Cast<byte, ulong>(bytes.AsSpan(at, SectorSize)).Fill(random.NextBits() | 1);
        return bytes;
    }

    private static byte[] Deflate(byte[] bytes)
    {
        MemoryStream packed = new();
        using (DeflateStream stream = new(packed, CompressionLevel.Optimal, leaveOpen: true))
            stream.Write(bytes);
        return packed.ToArray();
    }

    /// <summary>Adds one to the refcounts of a run of host clusters; false if one has no refcount block.</summary>
    private static bool Count(CrashDevice disk, PlainReader reader, long first, long last)
    {
        int clusterSize = reader.Header.ClusterSize;
        int perBlock = clusterSize / 2;
        Span<byte> refcount = stackalloc byte[2];
        long[] at = new long[last - first + 1];
        for (long cluster = first; cluster <= last; cluster++)
        {
            long entry = cluster / perBlock * 8;
            if (entry >= (long)reader.Header.RefcountTableClusters * clusterSize)
                return false;
            long block = (long)reader.Read64(reader.Header.RefcountTableOffset + entry);
            if (block == 0)
                return false;
            at[cluster - first] = block + (cluster % perBlock * 2);
        }

        foreach (long offset in at)
        {
            reader.File.Read(offset, refcount);
            ushort more = (ushort)(BinaryPrimitives.ReadUInt16BigEndian(refcount) + 1);
            BinaryPrimitives.WriteUInt16BigEndian(refcount, more);
            disk.Write(offset, refcount);
        }

        return true;
    }

    private static void Write64(CrashDevice disk, long offset, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(bytes, value);
        disk.Write(offset, bytes);
    }
}
