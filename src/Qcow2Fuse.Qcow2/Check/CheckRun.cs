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
internal sealed class CheckRun : IDisposable
{
    private const long CountBytesMax = 1L << 30;
    private const long EncryptionBytesMax = 64L << 20;

    private readonly CheckedImage _image;
    private readonly CheckFindings _findings = new();
    private readonly MappingCheck _mapping;
    private readonly RefcountCheck _refcounts;

    /// <param name="file">The image file.</param>
    /// <param name="countBytesMax">Memory to take for counts at most.</param>
    /// <param name="memory">Where that is taken from; null for no other bound.</param>
    /// <exception cref="BlockException">The header is invalid.</exception>
    public CheckRun(BlockDevice file, long countBytesMax = CountBytesMax, MemoryBudget? memory = null)
    {
        _image = new CheckedImage(file, _findings, countBytesMax, memory ?? MemoryBudget.Unlimited);
        _mapping = new MappingCheck(_image, _findings);
        _refcounts = new RefcountCheck(_image, _findings);
    }

    /// <summary>The header.</summary>
    public Qcow2Header Header => _image.Header;

    /// <summary>What follows from the header.</summary>
    public Qcow2Geometry Geometry => _image.Geometry;

    /// <inheritdoc cref="CheckedImage.FileClusters"/>
    public long FileClusters => _image.FileClusters;

    /// <summary>What is referenced how often.</summary>
    public ReferenceCounts Counts => _image.Counts;

    /// <inheritdoc cref="MappingCheck.ActiveTables"/>
    public L2Tables ActiveTables => _mapping.ActiveTables;

    /// <inheritdoc cref="RefcountCheck.RefcountTable"/>
    public ReadOnlySpan<ulong> RefcountTable => _refcounts.RefcountTable;

    /// <summary>
    /// Whether something was met that only leaks, refcounts too low and COPIED flags cannot explain: then references
    /// may be missing from <see cref="Counts"/>, and no refcount may be derived from it.
    /// </summary>
    public bool HasUnexplained => _findings.HasUnexplained;

    /// <inheritdoc cref="RefcountCheck.HasCountsBeyondEnd"/>
    public bool HasCountsBeyondEnd => _refcounts.HasCountsBeyondEnd;

    /// <inheritdoc cref="CheckFindings.CopiedErrors"/>
    public long CopiedErrors => _findings.CopiedErrors;

    /// <inheritdoc cref="RefcountCheck.BlockAt"/>
    public long BlockAt(int index) => _refcounts.BlockAt(index);

    /// <summary>Checks everything; once.</summary>
    /// <exception cref="BlockException">The tables are larger than what can be checked.</exception>
    public CheckResult Run()
    {
        _refcounts.ReadBlocks();
        SnapshotTableCheck table = new(_image, _findings);
        List<SnapshotTableCheck.SnapshotL1> snapshots = table.Read();
        _mapping.WalkL1(Header.L1Offset, Header.L1Size, active: true, times: 1);
        _mapping.EndActive();
        foreach (SnapshotTableCheck.SnapshotL1 snapshot in snapshots)
            _mapping.WalkL1(snapshot.Offset, snapshot.Entries, active: false, snapshot.Times);
        L2Tables tables = snapshots.Count == 0 ? ActiveTables : L2Tables.From(Counts);

        _image.Count(0, Geometry.ClusterSize, ClusterUse.Header, 1);
        _image.Count(Header.L1Offset, Header.L1Size * 8L, ClusterUse.L1Table, 1);
        foreach (SnapshotTableCheck.SnapshotL1 snapshot in snapshots)
            _image.Count(snapshot.Offset, snapshot.Entries * 8L, ClusterUse.SnapshotL1Table, snapshot.Times);
        _mapping.WalkL2Tables(tables);
        if (!ReferenceEquals(tables, ActiveTables))
            tables.Dispose();
        _image.Count(Header.SnapshotsOffset, table.TableBytes, ClusterUse.SnapshotTable, 1);
        if (Header.RefcountFault is null)
        {
            _image.Count(
                Header.RefcountTableOffset,
                (long)Header.RefcountTableClusters << Geometry.ClusterBits,
                ClusterUse.RefcountTable,
                1);
        }

        CountEncryption();
        new BitmapCheck(_image, _findings).Run();
        _refcounts.CountBlocks();
        _refcounts.Compare();
        return Result();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _image.Dispose();
        _mapping.Dispose();
    }

    /// <summary>Specification section "Full disk encryption header pointer".</summary>
    private void CountEncryption()
    {
        HeaderExtension? pointer = Header.Extensions.FirstOrDefault(e => e.Type == HeaderExtension.Crypto);
        if (pointer is null || Header.EncryptionMethod != 2)
            return;
        ulong offset = BigEndian.U64(pointer.Content.Span, 0);
        ulong length = BigEndian.U64(pointer.Content.Span, 8);
        if (offset <= long.MaxValue && length <= EncryptionBytesMax && _image.IsAligned((long)offset))
            _image.Count((long)offset, (long)length, ClusterUse.Encryption, 1);
        else if (_findings.Noted(FindingKind.InvalidEntry))
            _findings.Note(0, $"the encryption header of {length} bytes at 0x{offset:x} is impossible");
    }

    private CheckResult Result() => new()
    {
        Findings = _findings.Texts,
        Corruptions = _findings.Corruptions,
        Leaks = _findings.Leaks,
        CheckErrors = _findings.CheckErrors,
        TotalClusters = (Header.Size + Geometry.ClusterMask) >> Geometry.ClusterBits,
        AllocatedClusters = _mapping.Allocated,
        FragmentedClusters = _mapping.Fragmented,
        CompressedClusters = _mapping.Compressed,
        ImageEndOffset = (_refcounts.Highest + 1) << Geometry.ClusterBits,
    };
}
