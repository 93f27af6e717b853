// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Qcow2;

/// <summary>Telling the overlap guard where all tables lie.</summary>
internal sealed partial class MetadataCaches
{
    private bool _hasGuard;

    /// <summary>Where metadata lies; knows nothing before <see cref="BuildGuard"/>.</summary>
    public OverlapGuard Guard { get; }

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
        var tables = new List<(HostOffset, long, MetadataKind)>
        {
            (default, _geometry.ClusterSize, MetadataKind.Header),
            (L1.Offset, L1.Count * 8L, MetadataKind.L1Table),
            (RefcountTable.Offset, RefcountTable.Count * 8L, MetadataKind.RefcountTable),
        };
        AddEntries(tables, L1, L1Entry.OffsetMask, MetadataKind.L2Table);
        AddEntries(tables, RefcountTable, ~511UL, MetadataKind.RefcountBlock);
        foreach (HeaderExtension extension in header.Extensions)
            AddExtension(tables, extension);
        Guard.Build(tables);
        _hasGuard = true;
    }

    /// <summary>Adds what the entries of a table point at; entries that no table can be at are left to their users.
    /// </summary>
    private void AddEntries(
        List<(HostOffset, long, MetadataKind)> tables, ResidentTable table, ulong mask, MetadataKind kind)
    {
        for (int i = 0; i < table.Count; i++)
        {
            ulong offset = table[i] & mask;
            if (offset != 0 && offset < (ulong)_file.Length && (offset & (ulong)_geometry.ClusterMask) == 0)
                tables.Add((new HostOffset((long)offset), _geometry.ClusterSize, kind));
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
