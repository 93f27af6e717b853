// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Partitions;

/// <summary>A partition of a disk.</summary>
/// <param name="Number">Its number as Linux counts: 1 to 4 and, for logical ones, from 5 on; any in a GPT.</param>
/// <param name="Start">Where it begins on the disk, in bytes.</param>
/// <param name="Length">Its length in bytes, at least 512.</param>
public readonly record struct Partition(int Number, long Start, long Length);

/// <summary>A run of bytes of a disk.</summary>
/// <param name="Start">Where it begins, in bytes.</param>
/// <param name="Length">Its length in bytes, at least 1.</param>
public readonly record struct DiskRange(long Start, long Length)
{
    /// <summary>Whether the other range has a byte in common with this one.</summary>
    public bool Overlaps(long start, long length) => start < Start + Length && Start < start + length;
}

/// <summary>
/// The partitions of a disk: a GPT behind a protective MBR, or an MBR with its logical partitions. A guest wrote it,
/// so it may hold anything: entries that lie outside the disk or overlap an earlier one are left out, and a table that
/// makes no sense has no partitions.
/// </summary>
public sealed class PartitionTable
{
    internal const int SmallSector = 512;
    internal const int LargeSector = 4096;

    private readonly DiskRange[] _places;

    private PartitionTable(IReadOnlyList<Partition> partitions, DiskRange[] places, int sectorSize = SmallSector)
    {
        SectorSize = sectorSize;
        Partitions = partitions;
        _places = places;
    }

    /// <summary>A disk without partitions that has not been looked at.</summary>
    public static PartitionTable Empty { get; } = new([], []);

    /// <summary>The partitions, by number.</summary>
    public IReadOnlyList<Partition> Partitions { get; }

    /// <summary>Bytes of the sectors in which the table counts, 4096 or 512, which is also that of no table.</summary>
    public int SectorSize { get; }

    /// <summary>Where the table lies, or one would.</summary>
    public IReadOnlyList<DiskRange> Places => _places;

    /// <summary>Whether a write to the range may change the partitions. Allocates nothing.</summary>
    public bool LiesIn(long start, long length)
    {
        foreach (DiskRange place in _places)
        {
            if (place.Overlaps(start, length))
                return true;
        }

        return false;
    }

    /// <summary>Reads the table of a disk.</summary>
    /// <exception cref="BlockException">The disk cannot be read. Never for what it holds.</exception>
    public static PartitionTable Read(BlockDevice disk)
    {
        PartitionScan scan = new(disk);

        // Where a header of either sector size begins, and where a backup of either does.
        scan.Watch(0, 2 * LargeSector);
        scan.Watch(disk.Length - LargeSector, LargeSector);
        if (!MbrReader.TryRead(scan, out MbrReader? mbr))
            return new PartitionTable([], scan.Places);
        if (mbr.IsProtective)
            GptReader.AddPartitions(scan);
        else
            mbr.AddPartitions();
        return new PartitionTable(scan.Partitions, scan.Places, scan.SectorSize);
    }
}

/// <summary>One run over a disk: what has been read, and the partitions that were found to be sound.</summary>
internal sealed class PartitionScan(BlockDevice disk)
{
    private readonly List<DiskRange> _places = [];
    private readonly List<Partition> _partitions = [];

    /// <summary>Size of the disk in bytes.</summary>
    public long Length { get; } = disk.Length;

    /// <summary>Bytes of the sectors in which the table counts.</summary>
    public int SectorSize { get; set; } = PartitionTable.SmallSector;

    public DiskRange[] Places => [.. _places];

    public IReadOnlyList<Partition> Partitions =>
        [.. _partitions.OrderBy(static partition => partition.Number)];

    /// <summary>Notes that the table lies, or could lie, there; what is outside the disk is cut off.</summary>
    public void Watch(long start, long length)
    {
        long from = Math.Max(start, 0);
        long to = Math.Min(start + length, Length);
        if (to > from)
            _places.Add(new DiskRange(from, to - from));
    }

    /// <summary>Reads a part of the table; null where it does not lie on the disk as a whole.</summary>
    public byte[]? TryRead(long start, int length)
    {
        if (start < 0 || length < 0 || start > Length - length)
            return null;
        Watch(start, length);
        byte[] bytes = new byte[length];
        disk.Read(start, bytes);
        return bytes;
    }

    /// <summary>
    /// Adds the partition of <paramref name="count"/> sectors at sector <paramref name="first"/>, unless it leaves the
    /// disk or has a byte in common with one that was added before.
    /// </summary>
    public void Add(int number, ulong first, ulong count, int sectorSize)
    {
        ulong sectors = (ulong)Length / (ulong)sectorSize;
        if (first == 0 || count == 0 || first >= sectors || count > sectors - first)
            return;
        long start = (long)first * sectorSize;
        long length = (long)count * sectorSize;
        foreach (Partition other in _partitions)
        {
            if (new DiskRange(other.Start, other.Length).Overlaps(start, length))
                return;
        }

        _partitions.Add(new Partition(number, start, length));
    }
}
