// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>Checks L1 and L2 tables, and counts what they name; specification section "Cluster mapping".</summary>
internal sealed class MappingCheck(CheckedImage image, CheckFindings findings) : IDisposable
{
    private const ulong L1Reserved = 0x7f00_0000_0000_01ff;
    private const ulong L2Reserved = 0x3f00_0000_0000_01fe;
    private const int RunBytesMax = 1 << 20;

    private L2Tables _activeTables = L2Tables.None;
    private long _expected;

    /// <summary>The L2 tables of the active L1 table.</summary>
    public L2Tables ActiveTables => _activeTables;

    /// <summary>Clusters of the active disk that have a place.</summary>
    public long Allocated { get; private set; }

    /// <summary>How many of them do not follow the one before, or are compressed.</summary>
    public long Fragmented { get; private set; }

    /// <summary>How many of them are compressed.</summary>
    public long Compressed { get; private set; }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!ReferenceEquals(_activeTables, L2Tables.None))
            _activeTables.Dispose();
    }

    /// <summary>
    /// Takes the tables that were counted so far for those of the active L1 table: to be called after that was walked,
    /// and before any other is.
    /// </summary>
    public void EndActive()
    {
        _activeTables = L2Tables.From(image.Counts);
        if (image.Geometry.DataIsExternal)
            _activeTables.FindFirstUses(image.Reader, image.Header, image.Geometry);
    }

    /// <summary>Counts the L2 tables that an L1 table names, not the table itself.</summary>
    public void WalkL1(long offset, int entries, bool active, uint times)
    {
        if (entries == 0 || !image.IsInside(offset, entries * 8L))
            return;
        findings.Reading(offset, "L1 table", () => image.Reader.Visit(offset, entries * 8L, (at, piece) =>
        {
            int words = piece.Length / 8;
            for (int i = MetadataReader.NextNonZero(piece, 0); i < words; i = MetadataReader.NextNonZero(piece, i + 1))
                CheckL1Entry(BigEndian.U64(piece, i * 8), at + (i * 8L), active, times);
        }));
    }

    private void CheckL1Entry(ulong entry, long place, bool active, uint times)
    {
        if ((entry & L1Reserved) != 0 && findings.Noted(FindingKind.InvalidEntry, times))
            findings.Note(place, $"L1 entry {entry:x16} at 0x{place:x} has reserved bits set");
        long table = (long)(entry & L1Entry.OffsetMask);
        if (table == 0)
        {
            if ((entry & L1Reserved) == 0 && findings.Noted(FindingKind.InvalidEntry, times))
                findings.Note(place, $"L1 entry {entry:x16} at 0x{place:x} names no L2 table");
            return;
        }

        if (!image.IsAligned(table))
        {
            if (findings.Noted(FindingKind.InvalidEntry, times))
                findings.Note(place, $"L1 entry {entry:x16} at 0x{place:x}: its L2 table is not aligned to a cluster");
            return;
        }

        if (image.Count(table, image.ClusterSize, ClusterUse.L2Table, times) && active)
            CheckCopied(entry, place, table, "L1");
    }

    /// <summary>The flag says that the stored refcount is one. In a data file there are none, and it is always set.
    /// </summary>
    private void CheckCopied(ulong entry, long place, long target, string level, uint times = 1)
    {
        if (image.Header.RefcountFault is not null)
            return;
        bool isOne = (image.Counts[target >> image.Geometry.ClusterBits] & ReferenceCounts.StoredOne) != 0;
        CheckCopied(entry, place, isOne, level, times);
    }

    private void CheckCopied(ulong entry, long place, bool expected, string level, uint times)
    {
        if ((entry & L2Entry.CopiedFlag) != 0 == expected || !findings.Noted(FindingKind.CopiedFlag, times))
            return;
        findings.Note(place, expected
            ? $"{level} entry {entry:x16} at 0x{place:x} has no COPIED flag, and the refcount is 1"
            : $"{level} entry {entry:x16} at 0x{place:x} has the COPIED flag, and the refcount is not 1");
    }

    /// <summary>Reads all L2 tables in the order in which they lie in the file, neighbours in one go.</summary>
    public void WalkL2Tables(L2Tables tables)
    {
        int bits = image.Geometry.ClusterBits;
        for (int first = 0; first < tables.Length;)
        {
            int end = first + 1;
            while (end < tables.Length
                && tables.Clusters[end] == tables.Clusters[end - 1] + 1
                && (end - first + 1L) << bits <= RunBytesMax)
            {
                end++;
            }

            long start = tables.Clusters[first] << bits;
            int run = first;
            int current = -1;
            L2Table table = default;
            long length = (end - (long)run) << bits;
            findings.Reading(start, "L2 table", () => image.Reader.Visit(start, length, (at, piece) =>
            {
                while (!piece.IsEmpty)
                {
                    int index = run + (int)((at - start) >> bits);
                    if (index != current)
                    {
                        current = index;
                        table = Describe(tables, index);
                        _expected = 0;
                    }

                    int part = (int)Math.Min(piece.Length, image.ClusterSize - (at & image.Geometry.ClusterMask));
                    CheckL2Piece(piece[..part], at, table);
                    piece = piece[part..];
                    at += part;
                }
            }));
            first = end;
        }
    }

    private L2Table Describe(L2Tables tables, int index)
    {
        long cluster = tables.Clusters[index];
        uint active = ReferenceEquals(tables, _activeTables) ? tables.Times(index) : _activeTables.TimesOf(cluster);
        long guest = 0;
        if (image.Geometry.DataIsExternal && active > 0)
        {
            guest = _activeTables.FirstUseOf(cluster) * image.Geometry.L2Coverage;
            if (active > 1 && findings.Noted(FindingKind.InvalidEntry))
                findings.Note(
                    cluster << image.Geometry.ClusterBits, $"{active} L1 entries map to one place of the data file");
        }

        return new L2Table(cluster << image.Geometry.ClusterBits, tables.Times(index), active, guest);
    }

    private void CheckL2Piece(ReadOnlySpan<byte> piece, long at, in L2Table table)
    {
        int words = piece.Length / 8;
        int wordsPerEntry = image.Geometry.L2EntryBytes / 8;
        for (int i = MetadataReader.NextNonZero(piece, 0); i < words; i = MetadataReader.NextNonZero(piece, i))
        {
            int index = i / wordsPerEntry;
            CheckL2Entry(
                L2Entry.Read(piece, index, image.Geometry), at + ((long)index * image.Geometry.L2EntryBytes), table);
            i = (index + 1) * wordsPerEntry;
        }
    }

    private void CheckL2Entry(L2Entry entry, long place, in L2Table table)
    {
        if (entry.IsCompressed)
        {
            CheckCompressedEntry(entry, place, table);
            return;
        }

        bool zeroFlagIsAllowed = image.Geometry.Version >= 3 && !image.Geometry.ExtendedL2;
        ulong reserved = L2Reserved | (zeroFlagIsAllowed ? 0 : L2Entry.ZeroFlag);
        if ((entry.Descriptor & reserved) != 0 && findings.Noted(FindingKind.InvalidEntry, table.Times))
            findings.Note(place, $"L2 entry {entry.Descriptor:x16} at 0x{place:x} has reserved bits set");

        // In an external data file offset 0 is guest cluster 0's own place, and the flag says that it is there.
        if (!entry.HasHost && !(image.Geometry.DataIsExternal && entry.IsCopied))
            CheckUnallocated(entry, place, table);
        else
            CheckAllocated(entry, place, table);
    }

    private void CheckUnallocated(L2Entry entry, long place, in L2Table table)
    {
        if ((uint)entry.Bitmap != 0)
        {
            if (findings.Noted(FindingKind.InvalidEntry, table.Times))
                findings.Note(
                    place, $"L2 entry {entry.Descriptor:x16} at 0x{place:x}: subclusters with data, but no cluster");
        }
        else if (table.Active > 0 && entry.IsCopied)
        {
            CheckCopied(entry.Descriptor, place, expected: false, "L2", table.Active);
        }
    }

    private void CheckAllocated(L2Entry entry, long place, in L2Table table)
    {
        long host = entry.Host.Value;
        if (!image.IsAligned(host) && findings.Noted(FindingKind.InvalidEntry, table.Times))
            findings.Note(place, $"L2 entry {entry.Descriptor:x16} at 0x{place:x}: its cluster is not aligned");
        if (((uint)entry.Bitmap & (uint)(entry.Bitmap >> 32)) != 0
            && findings.Noted(FindingKind.InvalidEntry, table.Times))
            findings.Note(place, $"L2 entry {entry.Descriptor:x16} at 0x{place:x}: subclusters both data and zero");
        if (table.Active > 0)
        {
            Allocated += table.Active;
            if (_expected != 0 && host != _expected)
                Fragmented += table.Active;
            _expected = host + image.ClusterSize;
        }

        if (!image.Geometry.DataIsExternal)
        {
            bool counted = image.Count(host, image.ClusterSize, ClusterUse.Data, table.Times);
            if (counted && table.Active > 0 && image.IsAligned(host))
                CheckCopied(entry.Descriptor, place, host, "L2", table.Active);
            return;
        }

        if (table.Active == 0)
            return;
        CheckCopied(entry.Descriptor, place, expected: true, "L2", table.Active);
        long guest = table.Guest + ((place - table.Place) / image.Geometry.L2EntryBytes * image.ClusterSize);
        if (host != guest && findings.Noted(FindingKind.InvalidEntry, table.Active))
            findings.Note(
                place, $"L2 entry {entry.Descriptor:x16} at 0x{place:x}: guest offset 0x{guest:x} lies elsewhere");
    }

    private void CheckCompressedEntry(L2Entry entry, long place, in L2Table table)
    {
        if (entry.IsCopied && findings.Noted(FindingKind.InvalidEntry, table.Times))
            findings.Note(
                place, $"L2 entry {entry.Descriptor:x16} at 0x{place:x}: a compressed cluster with the COPIED flag");
        if (image.Geometry.DataIsExternal || entry.Bitmap != 0)
        {
            if (findings.Noted(FindingKind.InvalidEntry, table.Times))
                findings.Note(place, $"L2 entry {entry.Descriptor:x16} at 0x{place:x}: a compressed cluster "
                    + (image.Geometry.DataIsExternal ? "with a data file" : "with subclusters"));
            return;
        }

        CompressedExtent extent = CompressedExtent.Decode(entry.Descriptor, image.Geometry);
        image.Count(extent.Host.Value, extent.BytesMax, ClusterUse.Compressed, table.Times);
        Allocated += table.Active;
        Compressed += table.Active;
        Fragmented += table.Active;
    }

    /// <summary>The table whose entries are being checked.</summary>
    /// <param name="Place">Its host offset.</param>
    /// <param name="Times">How many L1 entries name it.</param>
    /// <param name="Active">How many of them are in the active L1 table.</param>
    /// <param name="Guest">The guest offset it maps first; only with an external data file.</param>
    private readonly record struct L2Table(long Place, uint Times, uint Active, long Guest);
}
