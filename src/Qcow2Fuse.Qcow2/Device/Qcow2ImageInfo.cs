// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Encryption;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>
/// What header and snapshot table say of an image. Reading it opens no other file and changes nothing.
/// </summary>
public sealed record Qcow2ImageInfo
{
    public required int Version { get; init; }

    public required long VirtualSize { get; init; }

    public required int ClusterSize { get; init; }

    public required bool ExtendedL2 { get; init; }

    public required CompressionType Compression { get; init; }

    public required int RefcountBits { get; init; }

    public required bool LazyRefcounts { get; init; }

    public required bool Dirty { get; init; }

    public required bool Corrupt { get; init; }

    /// <summary>0 none, 1 AES, 2 LUKS.</summary>
    public required int EncryptionMethod { get; init; }

    /// <summary>The LUKS header of an image encrypted so, or null.</summary>
    public LuksHeader? Luks { get; init; }

    public string? BackingFile { get; init; }

    public string? BackingFormat { get; init; }

    public bool HasExternalData { get; init; }

    public string? DataFile { get; init; }

    public bool DataFileRaw { get; init; }

    /// <summary>
    /// The snapshots in the order of their table. Whoever goes through them reads them anew from the file, which is
    /// then to be open still: they may be more than fit into memory.
    /// </summary>
    public required IReadOnlyCollection<SnapshotInfo> Snapshots { get; init; }

    /// <summary>Persistent bitmaps that the image vouches for; read as <see cref="Snapshots"/> are.</summary>
    public required IReadOnlyCollection<BitmapInfo> Bitmaps { get; init; }

    /// <summary>Reads it from the image file.</summary>
    /// <exception cref="BlockException">The header, the snapshot table or the bitmap directory is invalid.</exception>
    public static Qcow2ImageInfo Read(BlockDevice file)
    {
        Qcow2Header header = Qcow2HeaderReader.Read(file);
        return new Qcow2ImageInfo
        {
            Version = header.Version,
            VirtualSize = header.Size & ~511L,
            ClusterSize = 1 << header.ClusterBits,
            ExtendedL2 = header.HasExtendedL2,
            Compression = header.Compression,
            RefcountBits = header.RefcountBits,
            LazyRefcounts = (header.Compatible & FeatureBits.LazyRefcounts) != 0,
            Dirty = header.IsDirty,
            Corrupt = header.IsCorrupt,
            EncryptionMethod = header.EncryptionMethod,
            Luks = header.EncryptionMethod == 2 ? LuksHeader.Read(file, header) : null,
            BackingFile = header.BackingFile,
            BackingFormat = header.BackingFormat,
            HasExternalData = header.HasExternalData,
            DataFile = header.DataFile,
            DataFileRaw = (header.Autoclear & FeatureBits.RawExternalData) != 0,
            Snapshots = new TableList<SnapshotInfo>(
                SnapshotTable.Measure(file, header).Count,
                () => SnapshotTable.Entries(file, header).Select(static entry => entry.Info)),
            Bitmaps = BitmapSet.Describe(file, header),
        };
    }
}
