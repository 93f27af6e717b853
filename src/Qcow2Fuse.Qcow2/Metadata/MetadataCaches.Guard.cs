// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Qcow2;

/// <summary>Telling the overlap guard where all tables lie.</summary>
internal sealed partial class MetadataCaches
{
    private const string GuardMemory = "the list of its tables";

    private const int TablesAtOnce = 4096;

    /// <summary>Bytes that a table takes while all are collected.</summary>
    private const long BytesPerTable = MemoryBudget.ManagedFactor * 24;

    private volatile bool _hasGuard;
    private MemoryCharge? _guardCharge;

    /// <summary>Where metadata lies; knows nothing before <see cref="BuildGuard"/>.</summary>
    public OverlapGuard Guard { get; }

    /// <summary>Whether the guard knows all metadata.</summary>
    public bool HasGuard => _hasGuard;

    /// <summary>Builds the guard unless that was done before.</summary>
    public void EnsureGuard()
    {
        if (!_hasGuard)
            BuildGuard();
    }

    /// <summary>
    /// Collects all metadata of the image: before the first write, and after snapshots or bitmaps have moved. Reads
    /// the tables of snapshots, not those of the active disk, which are in memory.
    /// </summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.Corrupt"/> where two tables lie in one cluster.
    /// </exception>
    public void BuildGuard()
    {
        Qcow2Header header = _header.Current;
        _guardCharge?.Dispose();
        _guardCharge = Memory.Take(0, _file.Name, GuardMemory);
        var tables = new List<(HostOffset, long, MetadataKind)>
        {
            (default, _geometry.ClusterSize, MetadataKind.Header),
            (L1.Offset, L1.Count * 8L, MetadataKind.L1Table),
            (RefcountTable.Offset, RefcountTable.Count * 8L, MetadataKind.RefcountTable),
        };
        AddEntries(tables, L1, L1Entry.OffsetMask, MetadataKind.L2Table);
        AddEntries(tables, RefcountTable, ~511UL, MetadataKind.RefcountBlock);
        bool hasBitmaps = (header.Autoclear & FeatureBits.Bitmaps) != 0;
        foreach (HeaderExtension extension in header.Extensions)
        {
            if (extension.Type != HeaderExtension.Bitmaps || hasBitmaps)
                AddExtension(tables, extension);
        }

        AddSnapshots(tables, header);
        Guard.Build(tables);
        _guardCharge.Shrink(Guard.Count * BytesPerTable);
        _hasGuard = true;
    }

    /// <summary>
    /// Builds it again because snapshots or bitmaps have moved, or may have. Where that fails the next write tries
    /// again before it begins.
    /// </summary>
    public void RebuildGuard()
    {
        if (HasFailed)
            return;
        _hasGuard = false;
        BuildGuard();
    }

    /// <summary>Adds what the entries of a table point at; entries that no table can be at are left to their users.
    /// </summary>
    private void AddEntries(
        List<(HostOffset, long, MetadataKind)> tables, ResidentTable table, ulong mask, MetadataKind kind)
    {
        ulong last = 0;
        for (int i = 0; i < table.Count; i++)
        {
            ulong offset = table[i] & mask;
            if (offset == last)
                continue;
            last = offset;
            if (tables.Count % TablesAtOnce == 0)
                _guardCharge!.Grow(TablesAtOnce * BytesPerTable, _file.Name, GuardMemory);
            if (offset != 0 && offset < (ulong)_file.Length && (offset & (ulong)_geometry.ClusterMask) == 0)
                tables.Add((new HostOffset((long)offset), _geometry.ClusterSize, kind));
        }
    }

    private void AddSnapshots(List<(HostOffset, long, MetadataKind)> tables, Qcow2Header header)
    {
        if (header.SnapshotCount == 0)
            return;
        tables.Add((new HostOffset(header.SnapshotsOffset), SnapshotTable.Measure(_file, header).Bytes,
            MetadataKind.SnapshotTable));
        var seen = new HashSet<long>();
        foreach (SnapshotEntry snapshot in SnapshotTable.Entries(_file, header))
        {
            long bytes = snapshot.L1Size * 8L;
            if (bytes == 0 || snapshot.L1Size > Qcow2HeaderReader.L1BytesMax / 8
                || (snapshot.L1Offset.Value & _geometry.ClusterMask) != 0
                || snapshot.L1Offset.Value <= 0 || snapshot.L1Offset.Value > _file.Length - bytes)
                continue;
            if (!seen.Add(snapshot.L1Offset.Value))
                throw new BlockException(BlockErrorKind.Corrupt,
                    $"{_file.Name}: two snapshots have the L1 table at {snapshot.L1Offset.Value}");
            tables.Add((snapshot.L1Offset, bytes, MetadataKind.InactiveL1Table));
            using ResidentTable l1 = ResidentTable.Load(_file, snapshot.L1Offset, (int)snapshot.L1Size, Memory);
            AddEntries(tables, l1, L1Entry.OffsetMask, MetadataKind.InactiveL2Table);
        }
    }

    /// <summary>Specification sections "Bitmaps extension" and "Full disk encryption header pointer".</summary>
    private void AddExtension(List<(HostOffset, long, MetadataKind)> tables, HeaderExtension extension)
    {
        ReadOnlySpan<byte> content = extension.Content.Span;
        if (extension.Type == HeaderExtension.Bitmaps)
            Add(BigEndian.U64(content, 16), BigEndian.U64(content, 8), MetadataKind.BitmapDirectory);
        else if (extension.Type == HeaderExtension.Crypto)
            Add(BigEndian.U64(content, 0), BigEndian.U64(content, 8), MetadataKind.EncryptionHeader);

        void Add(ulong offset, ulong bytes, MetadataKind kind)
        {
            if (offset < (ulong)_file.Length && bytes < (ulong)_file.Length)
                tables.Add((new HostOffset((long)offset), (long)bytes, kind));
        }
    }
}
