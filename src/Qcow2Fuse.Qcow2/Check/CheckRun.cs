// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>
/// One traversal of an image: follows every reference from the header, counts them for each host cluster, and compares
/// with the stored refcounts. Reads the image file and no other, and writes nothing.
/// </summary>
/// <remarks>
/// A table is read once, however often it is named; what it names counts as often as it is named. So the work grows
/// with the tables that the file really holds, whatever the image says.
/// </remarks>
internal sealed partial class CheckRun : IDisposable
{
    private const long CountBytesMax = 1L << 30;
    private const long EncryptionBytesMax = 64L << 20;

    private readonly BlockDevice _file;
    private readonly MetadataReader _reader;
    private readonly List<CheckFinding> _findings = [];
    private readonly long _fileLength;
    private long _corruptions;
    private long _leaks;
    private long _checkErrors;
    private long _allocated;
    private long _fragmented;
    private long _compressed;
    private long _highest;
    private FindingKind _noted;

    /// <param name="file">The image file.</param>
    /// <param name="countBytesMax">Memory to take for counts at most.</param>
    /// <param name="memory">Where that is taken from; null for no other bound.</param>
    /// <exception cref="BlockException">The header is invalid.</exception>
    public CheckRun(BlockDevice file, long countBytesMax = CountBytesMax, MemoryBudget? memory = null)
    {
        _file = file;
        _reader = new MetadataReader(file);
        _fileLength = file.Length;
        Header = Qcow2HeaderReader.Read(file);
        Geometry = new Qcow2Geometry(Header);
        FileClusters = Geometry.RoundUpToCluster(_fileLength) >> Geometry.ClusterBits;
        Counts = new ReferenceCounts(countBytesMax, file.Name, memory ?? MemoryBudget.Unlimited);
    }

    public Qcow2Header Header { get; }

    public Qcow2Geometry Geometry { get; }

    /// <summary>Clusters that begin inside the file.</summary>
    public long FileClusters { get; }

    /// <summary>What is referenced how often.</summary>
    public ReferenceCounts Counts { get; }

    /// <summary>
    /// Whether something was met that only leaks, refcounts too low and COPIED flags cannot explain: then references
    /// may be missing from <see cref="Counts"/>, and no refcount may be derived from it.
    /// </summary>
    public bool HasUnexplained { get; private set; }

    /// <summary>
    /// Whether refcounts are too high of clusters behind the end of the file: no leak, but one once the file has grown.
    /// </summary>
    public bool HasCountsBeyondEnd { get; private set; }

    /// <summary>How many findings are of the kind <see cref="FindingKind.CopiedFlag"/>.</summary>
    public long CopiedErrors { get; private set; }

    private int ClusterSize => Geometry.ClusterSize;

    /// <summary>Checks everything; once.</summary>
    /// <exception cref="BlockException">The tables are larger than what can be checked.</exception>
    public CheckResult Run()
    {
        ReadRefcountBlocks();
        List<SnapshotL1> snapshots = ReadSnapshots();
        WalkL1(Header.L1Offset, Header.L1Size, active: true, times: 1);
        _activeTables = L2Tables.From(Counts);
        if (Geometry.DataIsExternal)
            _activeTables.FindFirstUses(_reader, Header, Geometry);
        foreach (SnapshotL1 snapshot in snapshots)
            WalkL1(snapshot.Offset, snapshot.Entries, active: false, snapshot.Times);
        L2Tables tables = snapshots.Count == 0 ? _activeTables : L2Tables.From(Counts);

        Count(0, ClusterSize, ClusterUse.Header, 1);
        Count(Header.L1Offset, Header.L1Size * 8L, ClusterUse.L1Table, 1);
        foreach (SnapshotL1 snapshot in snapshots)
            Count(snapshot.Offset, snapshot.Entries * 8L, ClusterUse.SnapshotL1Table, snapshot.Times);
        WalkL2Tables(tables);
        if (!ReferenceEquals(tables, _activeTables))
            tables.Dispose();
        Count(Header.SnapshotsOffset, _snapshotTableBytes, ClusterUse.SnapshotTable, 1);
        if (Header.RefcountFault is null)
        {
            Count(
                Header.RefcountTableOffset,
                (long)Header.RefcountTableClusters << Geometry.ClusterBits,
                ClusterUse.RefcountTable,
                1);
        }

        CountEncryption();
        CountBitmaps();
        CountRefcountBlocks();
        CompareRefcounts();
        return Result();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Counts.Dispose();
        if (!ReferenceEquals(_activeTables, L2Tables.None))
            _activeTables.Dispose();
    }

    private static string NameOf(ClusterUse use) => use switch
    {
        ClusterUse.Header => "header",
        ClusterUse.RefcountTable => "refcount table",
        ClusterUse.RefcountBlock => "refcount block",
        ClusterUse.L1Table => "L1 table",
        ClusterUse.SnapshotL1Table => "L1 table of a snapshot",
        ClusterUse.L2Table => "L2 table",
        ClusterUse.Data => "data cluster",
        ClusterUse.Compressed => "compressed cluster",
        ClusterUse.SnapshotTable => "snapshot table",
        ClusterUse.Encryption => "encryption header",
        ClusterUse.BitmapDirectory => "bitmap directory",
        ClusterUse.BitmapTable => "bitmap table",
        ClusterUse.Bitmap => "bitmap",
        _ => "nothing",
    };

    /// <summary>
    /// Counts references to every cluster of a range. One that does not begin in the file, or goes more than a cluster
    /// beyond its end, is a finding and is not counted.
    /// </summary>
    private bool Count(long offset, long length, ClusterUse use, uint times)
    {
        if (length <= 0)
            return true;
        if (!IsInside(offset, length))
        {
            if (Noted(FindingKind.InvalidEntry, times))
                Note(offset, $"{NameOf(use)} at 0x{offset:x} lies beyond the end of the file");
            return false;
        }

        long last = (offset + length - 1) >> Geometry.ClusterBits;
        for (long cluster = offset >> Geometry.ClusterBits; cluster <= last; cluster++)
            Counts.Add(cluster, use, times);
        return true;
    }

    private bool IsInside(long offset, long length) =>
        offset >= 0 && offset < _fileLength && length <= _fileLength - offset + ClusterSize;

    private bool IsAligned(long offset) => (offset & Geometry.ClusterMask) == 0;

    /// <summary>
    /// Counts a finding; true if its text is wanted as well, which the caller then gives to <see cref="Note"/>.
    /// </summary>
    private bool Noted(FindingKind kind, uint times = 1)
    {
        if (kind == FindingKind.Leak)
            _leaks += times;
        else if (kind == FindingKind.Unreadable)
            _checkErrors += times;
        else
            _corruptions += times;
        if (kind == FindingKind.CopiedFlag)
            CopiedErrors += times;
        HasUnexplained |= kind is FindingKind.Overlap or FindingKind.InvalidEntry or FindingKind.Unreadable;
        _noted = kind;
        return _findings.Count < CheckResult.FindingsMax;
    }

    private void Note(long place, string text) => _findings.Add(new CheckFinding(_noted, place, text));

    /// <summary>Does something that reads; a failure to read is a finding.</summary>
    private void Reading(long place, string what, Action read)
    {
        try
        {
            read();
        }
        catch (BlockException failure) when (failure.Kind == BlockErrorKind.Io)
        {
            if (Noted(FindingKind.Unreadable))
                Note(place, $"{what} at 0x{place:x} cannot be read");
        }
    }

    /// <summary>Specification section "Full disk encryption header pointer".</summary>
    private void CountEncryption()
    {
        HeaderExtension? pointer = Header.Extensions.FirstOrDefault(e => e.Type == HeaderExtension.Crypto);
        if (pointer is null || Header.EncryptionMethod != 2)
            return;
        ulong offset = BigEndian.U64(pointer.Content.Span, 0);
        ulong length = BigEndian.U64(pointer.Content.Span, 8);
        if (offset <= long.MaxValue && length <= EncryptionBytesMax && IsAligned((long)offset))
            Count((long)offset, (long)length, ClusterUse.Encryption, 1);
        else if (Noted(FindingKind.InvalidEntry))
            Note(0, $"the encryption header of {length} bytes at 0x{offset:x} is impossible");
    }

    private CheckResult Result() => new()
    {
        Findings = _findings,
        Corruptions = _corruptions,
        Leaks = _leaks,
        CheckErrors = _checkErrors,
        TotalClusters = (Header.Size + Geometry.ClusterMask) >> Geometry.ClusterBits,
        AllocatedClusters = _allocated,
        FragmentedClusters = _fragmented,
        CompressedClusters = _compressed,
        ImageEndOffset = (_highest + 1) << Geometry.ClusterBits,
    };
}
