// SPDX-License-Identifier: MIT
using System.Buffers.Binary;

namespace Qcow2Fuse.Block.Partitions;

/// <summary>
/// A GUID partition table (UEFI specification, chapter 5): a header in the second sector, a backup of it in the last
/// one, each with an array of entries; headers and arrays carry CRCs. Sectors have 512 or 4096 bytes.
/// </summary>
internal static class GptReader
{
    private const int HeaderSizeMin = 92;
    private const int EntrySizeMin = 128;
    private const int ArrayBytesMax = 1 << 20;
    private const uint Revision1 = 0x00010000;

    /// <summary>Adds the partitions of the first sound copy: primary, else backup.</summary>
    public static void AddPartitions(PartitionScan scan)
    {
        foreach (int sectorSize in (ReadOnlySpan<int>)[PartitionTable.SmallSector, PartitionTable.LargeSector])
        {
            long last = (scan.Length / sectorSize) - 1;
            if (last < 1)
                continue;
            Header? primary = ReadHeader(scan, sectorSize, 1);
            if (primary is { } header && TryAdd(scan, header))
                return;

            // A disk that has grown keeps its backup where its end was, which the primary header knows.
            if (ReadHeader(scan, sectorSize, (ulong)last) is { } atEnd && TryAdd(scan, atEnd))
                return;
            if (primary is { } first && first.Alternate != (ulong)last
                && ReadHeader(scan, sectorSize, first.Alternate) is { } elsewhere && TryAdd(scan, elsewhere))
            {
                return;
            }
        }
    }

    /// <summary>The header in a sector; null unless it is sound.</summary>
    private static Header? ReadHeader(PartitionScan scan, int sectorSize, ulong sector)
    {
        if (sector > (ulong)(scan.Length / sectorSize) - 1)
            return null;
        if (scan.TryRead((long)sector * sectorSize, sectorSize) is not { } bytes)
            return null;
        ReadOnlySpan<byte> fields = bytes;
        uint size = Read32(fields, 12);
        bool isHeader = fields.StartsWith("EFI PART"u8) && Read32(fields, 8) >= Revision1
            && size >= HeaderSizeMin && size <= (uint)sectorSize && Read64(fields, 24) == sector;
        if (!isHeader)
            return null;

        uint checksum = Read32(fields, 16);
        bytes.AsSpan(16, 4).Clear();
        if (Crc32.Of(bytes.AsSpan(0, (int)size)) != checksum)
            return null;
        Header header = new(
            sectorSize,
            Alternate: Read64(fields, 32),
            FirstUsable: Read64(fields, 40),
            LastUsable: Read64(fields, 48),
            Array: Read64(fields, 72),
            Entries: Read32(fields, 80),
            EntrySize: Read32(fields, 84),
            ArrayChecksum: Read32(fields, 88));
        return header.IsSound ? header : null;
    }

    /// <summary>Reads the array of entries and adds what it holds; false where the array is not sound.</summary>
    private static bool TryAdd(PartitionScan scan, Header header)
    {
        ulong sectors = (ulong)(scan.Length / header.SectorSize);
        if (header.Array >= sectors)
            return false;
        int entrySize = (int)header.EntrySize;
        byte[]? array = scan.TryRead((long)header.Array * header.SectorSize, (int)header.Entries * entrySize);
        if (array is null || Crc32.Of(array) != header.ArrayChecksum)
            return false;
        scan.SectorSize = header.SectorSize;
        for (int i = 0; i < (int)header.Entries; i++)
        {
            ReadOnlySpan<byte> entry = array.AsSpan(i * entrySize, entrySize);
            ulong first = Read64(entry, 32);
            ulong last = Read64(entry, 40);
            bool isUsed = entry[..16].ContainsAnyExcept((byte)0);
            if (isUsed && first >= header.FirstUsable && first <= last && last <= header.LastUsable)
                scan.Add(i + 1, first, last - first + 1, header.SectorSize);
        }

        return true;
    }

    private static uint Read32(ReadOnlySpan<byte> bytes, int at) =>
        BinaryPrimitives.ReadUInt32LittleEndian(bytes[at..]);

    private static ulong Read64(ReadOnlySpan<byte> bytes, int at) =>
        BinaryPrimitives.ReadUInt64LittleEndian(bytes[at..]);

    private readonly record struct Header(
        int SectorSize, ulong Alternate, ulong FirstUsable, ulong LastUsable, ulong Array, uint Entries,
        uint EntrySize, uint ArrayChecksum)
    {
        /// <summary>Entries have 128 bytes times a power of two; an array beyond 1 MiB is nobody's.</summary>
        public bool IsSound =>
            EntrySize >= EntrySizeMin && (EntrySize & (EntrySize - 1)) == 0
            && (ulong)Entries * EntrySize <= ArrayBytesMax && FirstUsable <= LastUsable
            && LastUsable < ulong.MaxValue;
    }
}

/// <summary>The CRC of IEEE 802.3, as GPT uses it.</summary>
internal static class Crc32
{
    private static readonly uint[] Table = MakeTable();

    /// <summary>The checksum of <paramref name="bytes"/>.</summary>
    public static uint Of(ReadOnlySpan<byte> bytes)
    {
        uint value = uint.MaxValue;
        foreach (byte one in bytes)
            value = Table[(byte)(value ^ one)] ^ (value >> 8);
        return ~value;
    }

    private static uint[] MakeTable()
    {
        uint[] table = new uint[256];
        for (uint i = 0; i < table.Length; i++)
        {
            uint value = i;
            for (int bit = 0; bit < 8; bit++)
                value = (value & 1) != 0 ? (value >> 1) ^ 0xEDB88320 : value >> 1;
            table[i] = value;
        }

        return table;
    }
}
