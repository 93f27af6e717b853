// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>How the compressed clusters of an image are compressed.</summary>
public enum CompressionType
{
    /// <summary>Raw deflate streams.</summary>
    Deflate = 0,

    /// <summary>zstd frames.</summary>
    Zstd = 1,
}

/// <summary>Bits of the three feature fields (specification section "Header").</summary>
public static class FeatureBits
{
    /// <summary>Incompatible: refcounts may be too low or too high.</summary>
    public const ulong Dirty = 1 << 0;

    /// <summary>Incompatible: metadata was found damaged; the image must not be written.</summary>
    public const ulong Corrupt = 1 << 1;

    /// <summary>Incompatible: guest data lies in an external data file.</summary>
    public const ulong ExternalData = 1 << 2;

    /// <summary>Incompatible: the compression type field is not zero.</summary>
    public const ulong CompressionType = 1 << 3;

    /// <summary>Incompatible: L2 entries are extended.</summary>
    public const ulong ExtendedL2 = 1 << 4;

    /// <summary>Compatible: refcounts may be updated lazily under the dirty bit.</summary>
    public const ulong LazyRefcounts = 1 << 0;

    /// <summary>Autoclear: the bitmaps extension is consistent with the image.</summary>
    public const ulong Bitmaps = 1 << 0;

    /// <summary>Autoclear: the external data file is a valid raw image.</summary>
    public const ulong RawExternalData = 1 << 1;

    /// <summary>All incompatible bits this program knows.</summary>
    public const ulong KnownIncompatible = Dirty | Corrupt | ExternalData | CompressionType | ExtendedL2;
}

/// <summary>
/// The header of an image, checked field by field against the specification's rules and QEMU's limits; see
/// <see cref="Qcow2HeaderReader"/> for how it is read.
/// </summary>
public sealed record Qcow2Header
{
    /// <summary>Format version, 2 or 3.</summary>
    public required int Version { get; init; }

    /// <summary>log2 of the cluster size, 9 to 21.</summary>
    public required int ClusterBits { get; init; }

    /// <summary>Virtual disk size in bytes as the header holds it.</summary>
    public required long Size { get; init; }

    /// <summary>0 none, 1 AES, 2 LUKS.</summary>
    public required int EncryptionMethod { get; init; }

    /// <summary>Entries of the active L1 table.</summary>
    public required int L1Size { get; init; }

    /// <summary>Host offset of the active L1 table, cluster aligned.</summary>
    public required long L1Offset { get; init; }

    /// <summary>Host offset of the refcount table, cluster aligned.</summary>
    public required long RefcountTableOffset { get; init; }

    /// <summary>Clusters of the refcount table.</summary>
    public required int RefcountTableClusters { get; init; }

    /// <summary>Internal snapshots.</summary>
    public required int SnapshotCount { get; init; }

    /// <summary>Host offset of the snapshot table.</summary>
    public required long SnapshotsOffset { get; init; }

    /// <summary>Incompatible features; 0 in version 2.</summary>
    public required ulong Incompatible { get; init; }

    /// <summary>Compatible features; 0 in version 2.</summary>
    public required ulong Compatible { get; init; }

    /// <summary>Autoclear features; 0 in version 2.</summary>
    public required ulong Autoclear { get; init; }

    /// <summary>Where header extensions begin: 72 in version 2, at least 104 in version 3.</summary>
    public required int HeaderLength { get; init; }

    /// <summary>log2 of the refcount width in bits, 0 to 6.</summary>
    public required int RefcountOrder { get; init; }

    /// <summary>How compressed clusters are compressed.</summary>
    public required CompressionType Compression { get; init; }

    /// <summary>Where the backing file's name lies in the first cluster, 0 for no backing file.</summary>
    public int BackingNameOffset { get; init; }

    /// <summary>Bytes of the backing file's name.</summary>
    public int BackingNameBytes { get; init; }

    /// <summary>The backing file's name, or null.</summary>
    public string? BackingFile { get; init; }

    /// <summary>The backing file's format from the header extension, or null.</summary>
    public string? BackingFormat { get; init; }

    /// <summary>All header extensions in their order, the unknown ones among them.</summary>
    public IReadOnlyList<HeaderExtension> Extensions { get; init; } = [];

    /// <summary>The external data file's name from the header extension, or null.</summary>
    public string? DataFile { get; init; }

    /// <summary>
    /// What is wrong with where the refcount table is said to lie, or null. Reading needs no refcounts; who writes, or
    /// believes the fields of the table, throws it.
    /// </summary>
    public BlockException? RefcountFault { get; init; }

    /// <summary>The same of the snapshot table.</summary>
    public BlockException? SnapshotFault { get; init; }

    /// <summary>Whether L2 entries have a bitmap of subclusters (incompatible bit 4).</summary>
    public bool HasExtendedL2 => (Incompatible & FeatureBits.ExtendedL2) != 0;

    /// <summary>Whether guest data lies in a file of its own (incompatible bit 2).</summary>
    public bool HasExternalData => (Incompatible & FeatureBits.ExternalData) != 0;

    /// <summary>Whether refcounts may be wrong, because the image was not closed (incompatible bit 0).</summary>
    public bool IsDirty => (Incompatible & FeatureBits.Dirty) != 0;

    /// <summary>Whether the image was found corrupt and must not be written (incompatible bit 1).</summary>
    public bool IsCorrupt => (Incompatible & FeatureBits.Corrupt) != 0;

    /// <summary>Width of a refcount in bits.</summary>
    public int RefcountBits => 1 << RefcountOrder;
}
