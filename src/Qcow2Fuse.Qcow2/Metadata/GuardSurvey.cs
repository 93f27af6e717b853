// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>Telling the overlap guard where all tables lie.</summary>
/// <remarks>
/// All methods are called with the image's gate held. Its only state is whether the guard knows all metadata, which
/// anybody may ask.
/// </remarks>
internal sealed class GuardSurvey
{
    /// <summary>Header, L1 and refcount table, snapshot table, bitmap directory, encryption header, and some more.
    /// </summary>
    private const int SingleTables = 16;

    private const int EntriesAtOnce = 8192;

    /// <summary>Refcount table entries hold the offset in bits 9 to 63.</summary>
    private const ulong RefcountEntryMask = ~511UL;

    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly HeaderStore _header;
    private readonly MetadataTables _tables;
    private readonly OverlapGuard _guard;
    private readonly DurableFile _durable;
    private volatile bool _isComplete;

    public GuardSurvey(ImageCore image, MetadataTables tables, OverlapGuard guard, DurableFile durable)
    {
        _file = image.File;
        _geometry = image.Geometry;
        _header = image.Header;
        _tables = tables;
        _guard = guard;
        _durable = durable;
    }

    /// <summary>Whether the guard knows all metadata.</summary>
    public bool IsComplete => _isComplete;

    /// <summary>Builds the guard unless that was done before.</summary>
    public void Ensure()
    {
        if (!_isComplete)
            Build();
    }

    /// <summary>
    /// Takes the memory that the guard needs for all tables there are, and for <paramref name="more"/> of them: when an
    /// image is opened for writing, and before a change that adds tables. A write asks for none after that.
    /// </summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.NoMemory"/>, or the snapshot table cannot be read.
    /// </exception>
    public void Reserve(long more) => _guard.Reserve(CountTables() + more);

    /// <summary>
    /// Collects all metadata of the image: before the first write, and after snapshots or bitmaps have moved. Reads
    /// the tables of snapshots, not those of the active disk, which are in memory.
    /// </summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.Corrupt"/> where two tables lie in one cluster.
    /// </exception>
    private void Build()
    {
        try
        {
            CollectTables(_header.Current);
            _isComplete = true;
        }
        finally
        {
            if (!_isComplete)
                _guard.Forget();
        }
    }

    private void CollectTables(Qcow2Header header)
    {
        _guard.BeginBuilding(CountTables());
        _guard.Collect(default, _geometry.ClusterSize, MetadataKind.Header);
        _guard.Collect(_tables.L1.Offset, _tables.L1.Count * 8L, MetadataKind.L1Table);
        _guard.Collect(_tables.RefcountTable.Offset, _tables.RefcountTable.Count * 8L, MetadataKind.RefcountTable);
        CollectEntries(_tables.L1, L1Entry.OffsetMask, MetadataKind.L2Table);
        CollectEntries(_tables.RefcountTable, RefcountEntryMask, MetadataKind.RefcountBlock);
        bool hasBitmaps = (header.Autoclear & FeatureBits.Bitmaps) != 0;
        foreach (HeaderExtension extension in header.Extensions)
        {
            if (extension.Type != HeaderExtension.Bitmaps || hasBitmaps)
                CollectExtension(extension);
        }

        CollectSnapshots(header);
        _guard.EndBuilding();
    }

    /// <summary>
    /// How many runs of clusters the tables can be at most: of each table one, and not more than the file has clusters.
    /// </summary>
    private long CountTables()
    {
        Qcow2Header header = _header.Current;
        long tables = CountEntries(_tables.L1, L1Entry.OffsetMask)
            + CountEntries(_tables.RefcountTable, RefcountEntryMask);
        if (header.SnapshotCount > 0)
        {
            foreach (SnapshotEntry snapshot in SnapshotTable.Entries(_file, header))
                tables += HasL1(snapshot) ? 1 + snapshot.L1Size : 1;
        }

        return SingleTables + Math.Min(tables, _geometry.RoundUpToCluster(_file.Length) >> _geometry.ClusterBits);
    }

    private static long CountEntries(ResidentTable table, ulong mask)
    {
        long count = 0;
        ulong last = 0;
        for (int i = 0; i < table.Count; i++)
        {
            ulong offset = table[i] & mask;
            if (offset != last && offset != 0)
                count++;
            last = offset;
        }

        return count;
    }

    /// <summary>
    /// Builds it again because snapshots or bitmaps have moved, or may have. Where that fails the next write tries
    /// again before it begins.
    /// </summary>
    public void Rebuild()
    {
        if (_durable.HasFailed)
            return;
        _isComplete = false;
        Build();
    }

    private void CollectEntries(ResidentTable table, ulong mask, MetadataKind kind)
    {
        ulong last = 0;
        for (int i = 0; i < table.Count; i++)
            CollectEntry(table[i] & mask, ref last, kind);
    }

    /// <summary>Names what an entry of a table points at; where no table can be, that is left to its users.</summary>
    private void CollectEntry(ulong offset, ref ulong last, MetadataKind kind)
    {
        if (offset == last)
            return;
        last = offset;
        if (offset != 0 && offset < (ulong)_file.Length && (offset & (ulong)_geometry.ClusterMask) == 0)
            _guard.Collect(new HostOffset((long)offset), _geometry.ClusterSize, kind);
    }

    private bool HasL1(SnapshotEntry snapshot)
    {
        long bytes = snapshot.L1Size * 8L;
        return bytes > 0 && bytes <= Qcow2HeaderReader.L1BytesMax
            && (snapshot.L1Offset.Value & _geometry.ClusterMask) == 0
            && snapshot.L1Offset.Value > 0 && snapshot.L1Offset.Value <= _file.Length - bytes;
    }

    private void CollectSnapshots(Qcow2Header header)
    {
        if (header.SnapshotCount == 0)
            return;
        _guard.Collect(new HostOffset(header.SnapshotsOffset), SnapshotTable.Measure(_file, header).Bytes,
            MetadataKind.SnapshotTable);
        using PooledBuffer part = BufferPool.Shared.Rent(EntriesAtOnce * 8);
        foreach (SnapshotEntry snapshot in SnapshotTable.Entries(_file, header))
        {
            if (!HasL1(snapshot))
                continue;
            _guard.Collect(snapshot.L1Offset, snapshot.L1Size * 8L, MetadataKind.InactiveL1Table);
            ulong last = 0;
            for (long done = 0; done < snapshot.L1Size; done += EntriesAtOnce)
            {
                Span<byte> entries = part.Span[..(int)(Math.Min(EntriesAtOnce, snapshot.L1Size - done) * 8)];
                _file.Read(snapshot.L1Offset.Value + (done * 8), entries);
                for (int at = 0; at < entries.Length; at += 8)
                {
                    CollectEntry(
                        BigEndian.U64(entries, at) & L1Entry.OffsetMask, ref last, MetadataKind.InactiveL2Table);
                }
            }
        }
    }

    /// <summary>Specification sections "Bitmaps extension" and "Full disk encryption header pointer".</summary>
    private void CollectExtension(HeaderExtension extension)
    {
        ReadOnlySpan<byte> content = extension.Content.Span;
        if (extension.Type == HeaderExtension.Bitmaps)
            Collect(BigEndian.U64(content, 16), BigEndian.U64(content, 8), MetadataKind.BitmapDirectory);
        else if (extension.Type == HeaderExtension.Crypto)
            Collect(BigEndian.U64(content, 0), BigEndian.U64(content, 8), MetadataKind.EncryptionHeader);

        void Collect(ulong offset, ulong bytes, MetadataKind kind)
        {
            if (offset < (ulong)_file.Length && bytes < (ulong)_file.Length)
                _guard.Collect(new HostOffset((long)offset), (long)bytes, kind);
        }
    }
}
