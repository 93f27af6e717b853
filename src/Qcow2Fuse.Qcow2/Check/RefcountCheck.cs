// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>
/// Checks the refcount table and its blocks, and compares them with what was counted; specification section "Host
/// cluster management".
/// </summary>
internal sealed class RefcountCheck(CheckedImage image, CheckFindings findings)
{
    private const ulong RefcountTableReserved = 0x1ff;

    private bool[] _namedAgain = [];
    private ulong[] _refcountTable = [];

    /// <summary>The refcount table.</summary>
    public ReadOnlySpan<ulong> RefcountTable => _refcountTable;

    /// <summary>
    /// The host offset of the block that an entry of the refcount table names, −1 where there is none of use.
    /// </summary>
    public long BlockAt(int index) =>
        _refcountTable[index] == 0 || !IsBlock(_refcountTable[index]) || _namedAgain[index]
            ? -1
            : (long)_refcountTable[index];

    private bool IsBlock(ulong entry) =>
        (entry & RefcountTableReserved) == 0 && entry < (ulong)image.FileLength && image.IsAligned((long)entry);

    /// <summary>
    /// Whether refcounts are too high of clusters behind the end of the file: no leak, but one once the file has grown.
    /// </summary>
    public bool HasCountsBeyondEnd { get; private set; }

    /// <summary>The last cluster of the file that is counted or has a refcount.</summary>
    public long Highest { get; private set; }

    /// <summary>Reads the table, and notes where refcounts are one.</summary>
    public void ReadBlocks()
    {
        if (image.Header.RefcountFault is { } fault)
        {
            if (findings.Noted(FindingKind.InvalidEntry))
                findings.Note(image.Header.RefcountTableOffset, fault.ReasonOrMessage);
            return;
        }

        long length = (long)image.Header.RefcountTableClusters << image.Geometry.ClusterBits;
        _refcountTable = new ulong[length / 8];
        _namedAgain = new bool[length / 8];
        findings.Reading(image.Header.RefcountTableOffset, "refcount table", () => image.Reader.Visit(
            image.Header.RefcountTableOffset,
            length,
            (at, piece) =>
            {
                long first = (at - image.Header.RefcountTableOffset) / 8;
                for (int i = 0; i < piece.Length / 8; i++)
                    _refcountTable[first + i] = BigEndian.U64(piece, i * 8);
            }));
        for (int i = 0; i < _refcountTable.Length; i++)
        {
            long block = BlockAt(i);
            if (block < 0)
                continue;
            long cluster = block >> image.Geometry.ClusterBits;
            if ((image.Counts[cluster] & ReferenceCounts.BlockSeen) != 0)
            {
                _namedAgain[i] = true;
                continue;
            }

            image.Counts.Mark(cluster, ReferenceCounts.BlockSeen);
            try
            {
                VisitRefcounts(i, (counted, stored) =>
                {
                    if (stored == 1 && counted <= image.FileClusters)
                        image.Counts.Mark(counted, ReferenceCounts.StoredOne);
                });
            }
            catch (BlockException failure) when (failure.Kind == BlockErrorKind.Io)
            {
                // It is read again to be compared, and reported then.
                continue;
            }
        }
    }

    /// <summary>Visits all refcounts of a block that are not zero.</summary>
    private void VisitRefcounts(int index, Action<long, ulong> visitor)
    {
        long block = BlockAt(index);
        int order = image.Geometry.RefcountOrder;
        image.Reader.Visit(block, image.ClusterSize, (at, piece) =>
        {
            long first = ((long)index << image.Geometry.RefcountBlockBits) + ((at - block) * 8 >> order);
            int words = piece.Length / 8;
            int perWord = 64 >> order;
            for (int word = MetadataReader.NextNonZero(piece, 0);
                word < words;
                word = MetadataReader.NextNonZero(piece, word + 1))
            {
                if (order == 6)
                {
                    visitor(first + word, BigEndian.U64(piece, word * 8));
                    continue;
                }

                ReadOnlySpan<byte> eight = piece.Slice(word * 8, 8);
                for (int i = 0; i < perWord; i++)
                {
                    ulong stored = RefcountField.Read(eight, i, order);
                    if (stored != 0)
                        visitor(first + ((long)word * perWord) + i, stored);
                }
            }
        });
    }

    /// <summary>Counts the blocks themselves, last of all, so that one used for something else is noticed.</summary>
    public void CountBlocks()
    {
        for (int i = 0; i < _refcountTable.Length; i++)
        {
            ulong entry = _refcountTable[i];
            if (entry == 0)
                continue;
            long place = image.Header.RefcountTableOffset + (i * 8L);
            if (!IsBlock(entry))
            {
                if (findings.Noted(FindingKind.InvalidEntry))
                    findings.Note(place, $"refcount table entry {entry:x16} at 0x{place:x} "
                        + ((entry & RefcountTableReserved) != 0 ? "has reserved bits set"
                            : entry >= (ulong)image.FileLength ? "names a block beyond the end of the file"
                            : "names a block that is not aligned"));
                continue;
            }

            long cluster = (long)entry >> image.Geometry.ClusterBits;
            image.Counts.Add(cluster, ClusterUse.RefcountBlock, 1);
            if (ReferenceCounts.CountOf(image.Counts[cluster]) != 1 && findings.Noted(FindingKind.InvalidEntry))
                findings.Note(
                    place, $"refcount table entry {entry:x16} at 0x{place:x} names a block that is in use already");
        }
    }

    /// <summary>Compares all refcounts with what was counted, once everything is.</summary>
    public void Compare()
    {
        for (int i = 0; i < _refcountTable.Length; i++)
        {
            if (BlockAt(i) < 0)
                continue;
            int index = i;
            long errors = findings.CheckErrors;
            findings.Reading(BlockAt(i), "refcount block", () => VisitRefcounts(index, CompareOne));
            if (findings.CheckErrors != errors)
                MarkCompared(i);
        }

        // What no block counts, or where it says zero. Of refcounts that cannot be found nothing is said but that.
        image.Counts.VisitCells((long cluster, ref uint cell) =>
        {
            if (ReferenceCounts.CountOf(cell) == 0)
                return;
            NoteHighest(cluster);
            if (image.Header.RefcountFault is null && (cell & ReferenceCounts.Compared) == 0)
                ReportDifference(cluster, cell, stored: 0);
        });
    }

    /// <summary>Of clusters whose refcounts cannot be read, nothing is said but that.</summary>
    private void MarkCompared(int index)
    {
        int bits = image.Geometry.RefcountBlockBits;
        image.Counts.VisitCells((long cluster, ref uint cell) =>
        {
            if (cluster >> bits == index)
                cell |= ReferenceCounts.Compared;
        });
    }

    private void CompareOne(long cluster, ulong stored)
    {
        NoteHighest(cluster);
        uint cell = image.Counts[cluster];
        if (cell != 0)
            image.Counts.Mark(cluster, ReferenceCounts.Compared);
        if ((cell & ReferenceCounts.Overlap) != 0 || stored != ReferenceCounts.CountOf(cell))
            ReportDifference(cluster, cell, stored);
    }

    private void NoteHighest(long cluster)
    {
        if (cluster < image.FileClusters)
            Highest = Math.Max(Highest, cluster);
    }

    private void ReportDifference(long cluster, uint cell, ulong stored)
    {
        uint counted = ReferenceCounts.CountOf(cell);
        long place = cluster << image.Geometry.ClusterBits;
        string use = CheckedImage.NameOf(ReferenceCounts.UseOf(cell));
        if ((cell & ReferenceCounts.Overlap) != 0)
        {
            if (findings.Noted(FindingKind.Overlap))
                findings.Note(
                    place,
                    $"cluster {cluster} refcount={stored} reference={counted}: is used as {use} and as "
                    + CheckedImage.NameOf(image.Counts.SecondUse(cluster)));
        }
        else if (stored < counted && findings.Noted(FindingKind.RefcountTooLow))
        {
            findings.Note(place, $"cluster {cluster} refcount={stored} reference={counted}: {use}");
        }

        // A count of what the file does not have takes no space.
        HasCountsBeyondEnd |= stored > counted && cluster >= image.FileClusters;
        if (stored > counted && cluster < image.FileClusters && findings.Noted(FindingKind.Leak))
            findings.Note(place, $"cluster {cluster} refcount={stored} reference={counted}");
    }
}
