// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Bitmaps;

/// <summary>Reads bitmap tables and the bits they lead to; specification section "Bitmap table".</summary>
internal static class BitmapTable
{
    /// <summary>An entry that stands for a cluster of ones and has no cluster.</summary>
    public const ulong AllOnes = 1;

    private const ulong OffsetMask = 0x00ff_ffff_ffff_fe00;

    /// <summary>Bytes of bits that are held in memory, for one image.</summary>
    public const long BitsBytesMax = 512L << 20;

    /// <summary>Entries of a table whose bits could be held in memory, with the smallest clusters there are.</summary>
    private const uint EntriesMax = (uint)(BitsBytesMax / 512);

    /// <summary>Table entries of a bitmap for a disk.</summary>
    public static long EntriesFor(long diskBytes, int granularityBits, int clusterBits)
    {
        long bytes = GranuleBits.LengthFor(diskBytes, granularityBits);
        return (bytes + (1L << clusterBits) - 1) >> clusterBits;
    }

    /// <summary>The table of a bitmap whose content is to be used, every entry checked.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.InvalidFormat"/>: it is damaged.</exception>
    public static ulong[] Read(BlockDevice file, BitmapEntry entry, long diskBytes, int clusterBits)
    {
        string name = $"bitmap '{Printable.Text(entry.Name)}'";
        long expected = EntriesFor(diskBytes, entry.GranularityBits, clusterBits);
        if (entry.TableEntries != expected)
            throw Invalid(file, $"{name} has a table of {entry.TableEntries} entries instead of {expected}");
        if (GranuleBits.LengthFor(diskBytes, entry.GranularityBits) > BitsBytesMax)
            throw TooLarge(file, entry.Name);
        if (!IsPlace(file, entry.Table, entry.TableEntries * 8UL, clusterBits))
            throw Invalid(file, $"{name} has its table at {entry.Table}, not aligned or beyond the end of the file");
        ulong[] table = ReadEntries(file, entry);
        foreach (ulong value in table)
        {
            ulong offset = value & OffsetMask;
            bool valid = offset == 0
                ? value <= AllOnes
                : value == offset && IsPlace(file, offset, 1, clusterBits);
            if (!valid)
                throw Invalid(file, $"{name} has the invalid table entry 0x{value:x}");
        }

        return table;
    }

    /// <summary>Loads the bits of a bitmap.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.InvalidFormat"/>: it is damaged;
    /// <see cref="BlockErrorKind.TooLarge"/>: it does not fit into memory.</exception>
    public static GranuleBits Load(
        BlockDevice file, BitmapEntry entry, long diskBytes, int clusterBits, MemoryBudget memory)
    {
        ulong[] table = Read(file, entry, diskBytes, clusterBits);
        var bits = new GranuleBits(diskBytes, entry.GranularityBits, memory, file.Name);
        try
        {
            for (int i = 0; i < table.Length; i++)
            {
                if (table[i] == 0)
                    continue;
                long start = (long)i << clusterBits;
                Span<byte> part = bits.Bytes(start, Math.Min(1L << clusterBits, bits.Length - start));
                if (table[i] == AllOnes)
                    part.Fill(0xff);
                else
                    file.ReadPadded((long)table[i], part);
            }

            if (bits.Count > 0)
                bits.ClearBehindEnd();
            return bits;
        }
        catch
        {
            bits.Dispose();
            throw;
        }
    }

    /// <summary>
    /// The host clusters that a bitmap takes, its table among them: what is to be freed when it goes. Of a bitmap that
    /// need not be valid, what cannot be right is left out.
    /// </summary>
    public static List<HostOffset> ClustersOf(BlockDevice file, BitmapEntry entry, int clusterBits)
    {
        var clusters = new List<HostOffset>();
        bool isPlausible = entry.TableEntries is > 0 and <= EntriesMax;
        if (!isPlausible || !IsPlace(file, entry.Table, entry.TableEntries * 8UL, clusterBits))
            return clusters;
        long end = (long)entry.Table + (entry.TableEntries * 8L);
        for (long at = (long)entry.Table; at < end; at += 1L << clusterBits)
            clusters.Add(new HostOffset(at));
        foreach (ulong value in ReadEntries(file, entry))
        {
            ulong offset = value & OffsetMask;
            if (offset != 0 && value == offset && IsPlace(file, offset, 1, clusterBits))
                clusters.Add(new HostOffset((long)offset));
        }

        return clusters;
    }

    public static BlockException TooLarge(BlockDevice file, string name) => BlockException.About(
        file.Name, BlockErrorKind.TooLarge,
        $"bitmap '{Printable.Text(name)}' needs more than {BitsBytesMax >> 20} MiB of memory");

    private static ulong[] ReadEntries(BlockDevice file, BitmapEntry entry)
    {
        var bytes = new byte[checked(entry.TableEntries * 8)];
        file.ReadPadded((long)entry.Table, bytes);
        var table = new ulong[entry.TableEntries];
        for (int i = 0; i < table.Length; i++)
            table[i] = BigEndian.U64(bytes, i * 8);
        return table;
    }

    private static bool IsPlace(BlockDevice file, ulong offset, ulong length, int clusterBits) =>
        offset != 0 && (offset & ((1UL << clusterBits) - 1)) == 0
        && offset <= (ulong)file.Length && length <= (ulong)file.Length - offset;

    private static BlockException Invalid(BlockDevice file, string reason) =>
        BlockException.About(file.Name, BlockErrorKind.InvalidFormat, reason);
}
