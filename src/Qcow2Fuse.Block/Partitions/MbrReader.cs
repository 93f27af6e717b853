// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;

namespace Qcow2Fuse.Block.Partitions;

/// <summary>
/// A master boot record: four entries of 16 bytes from byte 446 on, the signature 55 AA at byte 510. One entry may be
/// an extended partition, the head of a chain of records with one logical partition each. Sectors have 512 bytes.
/// </summary>
internal sealed class MbrReader
{
    private const int EntriesOffset = 446;
    private const int EntrySize = 16;
    private const int EntryCount = 4;
    private const int SignatureOffset = 510;
    private const int FirstLogical = 5;

    /// <summary>Links of a chain that are followed; Linux stops at the same order of magnitude.</summary>
    private const int ChainMax = 128;

    private readonly PartitionScan _scan;
    private readonly Entry[] _entries;

    private MbrReader(PartitionScan scan, Entry[] entries)
    {
        _scan = scan;
        _entries = entries;
    }

    /// <summary>Whether it only keeps old tools away from a GPT: it has an entry of type EE.</summary>
    public bool IsProtective => Array.Exists(_entries, static entry => entry.Type == 0xEE);

    /// <summary>Reads the first sector; false where it is no MBR.</summary>
    public static bool TryRead(PartitionScan scan, [NotNullWhen(true)] out MbrReader? mbr)
    {
        // The first sector of a file system has the signature too, but not the four status bytes.
        mbr = Entries(scan, 0) is { } entries
            && Array.TrueForAll(entries, static entry => entry.Status is 0 or 0x80)
            ? new MbrReader(scan, entries)
            : null;
        return mbr is not null;
    }

    /// <summary>Adds primary and logical partitions.</summary>
    public void AddPartitions()
    {
        for (int i = 0; i < EntryCount; i++)
        {
            if (!_entries[i].IsEmpty && !_entries[i].IsExtended)
                _scan.Add(i + 1, _entries[i].First, _entries[i].Count, PartitionTable.SmallSector);
        }

        // Linux follows the chain of one extended partition.
        int extended = Array.FindIndex(_entries, static entry => entry.IsExtended && !entry.IsEmpty);
        if (extended >= 0)
            AddLogical(_entries[extended]);
    }

    /// <summary>
    /// Follows the chain: the first entry of a record is its logical partition, counted from the record; the second
    /// is the link to the next record, counted from the extended partition.
    /// </summary>
    private void AddLogical(Entry extended)
    {
        HashSet<ulong> seen = [];
        int number = FirstLogical;
        ulong record = extended.First;
        while (seen.Count < ChainMax && seen.Add(record)
            && Entries(_scan, (long)record * PartitionTable.SmallSector) is [var data, var link, ..])
        {
            if (!data.IsEmpty && !data.IsExtended)
            {
                ulong first = record + data.First;
                if (IsInside(extended, first, data.Count))
                    _scan.Add(number, first, data.Count, PartitionTable.SmallSector);
                number++;
            }

            if (link.IsEmpty || !link.IsExtended || !IsInside(extended, extended.First + link.First, 1))
                return;
            record = extended.First + link.First;
        }
    }

    private static bool IsInside(Entry extended, ulong first, ulong count) =>
        first >= extended.First && first + count <= extended.First + extended.Count;

    private static Entry[]? Entries(PartitionScan scan, long offset)
    {
        byte[]? sector = scan.TryRead(offset, PartitionTable.SmallSector);
        if (sector is null || sector[SignatureOffset] != 0x55 || sector[SignatureOffset + 1] != 0xAA)
            return null;
        Entry[] entries = new Entry[EntryCount];
        for (int i = 0; i < EntryCount; i++)
        {
            ReadOnlySpan<byte> entry = sector.AsSpan(EntriesOffset + (i * EntrySize), EntrySize);
            entries[i] = new Entry(
                entry[0],
                entry[4],
                BinaryPrimitives.ReadUInt32LittleEndian(entry[8..]),
                BinaryPrimitives.ReadUInt32LittleEndian(entry[12..]));
        }

        return entries;
    }

    /// <summary>An entry; first sector and number of sectors are below 2^32, so their sums never overflow.</summary>
    private readonly record struct Entry(byte Status, byte Type, ulong First, ulong Count)
    {
        public bool IsEmpty => Type == 0 || Count == 0;

        public bool IsExtended => Type is 0x05 or 0x0F or 0x85;
    }
}
