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
    /// <summary>Version of the format, 2 or 3.</summary>
    public required int Version { get; init; }

    /// <summary>Size of the disk in bytes.</summary>
    public required long VirtualSize { get; init; }

    /// <summary>Bytes of a cluster.</summary>
    public required int ClusterSize { get; init; }

    /// <summary>Whether clusters have subclusters.</summary>
    public required bool ExtendedL2 { get; init; }

    /// <summary>How compressed clusters are compressed.</summary>
    public required CompressionType Compression { get; init; }

    /// <summary>Width of a refcount in bits.</summary>
    public required int RefcountBits { get; init; }

    /// <summary>Whether refcounts are written late.</summary>
    public required bool LazyRefcounts { get; init; }

    /// <summary>Whether the image was not closed after it had been written with late refcounts.</summary>
    public required bool Dirty { get; init; }

    /// <summary>Whether the image was found corrupt and must not be written.</summary>
    public required bool Corrupt { get; init; }

    /// <summary>0 none, 1 AES, 2 LUKS.</summary>
    public required int EncryptionMethod { get; init; }

    /// <summary>The LUKS header of an image encrypted so, or null.</summary>
    public LuksHeader? Luks { get; init; }

    /// <summary>The backing file as the image names it, or null.</summary>
    public string? BackingFile { get; init; }

    /// <summary>The format of the backing file as the image names it, or null.</summary>
    public string? BackingFormat { get; init; }

    /// <summary>Whether guest data lies in a file of its own.</summary>
    public bool HasExternalData { get; init; }

    /// <summary>The data file as the image names it, or null.</summary>
    public string? DataFile { get; init; }

    /// <summary>Whether the data file alone is to be the disk.</summary>
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
