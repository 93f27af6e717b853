// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;
using Qcow2Fuse.Qcow2;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>The product's own engine under crash tests.</summary>
public sealed class Qcow2Subject : ICrashSubject
{
    /// <summary>
    /// Whether the metadata caches are as small as the engine can work with, so that entries are evicted all the time
    /// and not only written by a flush.
    /// </summary>
    public bool SmallCaches { get; init; }

    /// <summary>Whether what the guest writes is compressed.</summary>
    public bool Compress { get; init; }

    /// <summary>The largest clusters that random images have: large ones take long to compress.</summary>
    public int ClusterBitsMax { get; init; } = 21;

    /// <inheritdoc/>
    public string Name => "Qcow2Device" + (Compress ? " that compresses" : string.Empty)
        + (SmallCaches ? " with small caches" : string.Empty);

    /// <inheritdoc/>
    public string Environment => string.Join(
        ' ',
        (string[])[
            .. SmallCaches ? (string[])["QCOW2FUSE_CRASH_SMALL_CACHES=1"] : [],
            .. ClusterBitsMax < 21 ? (string[])[$"QCOW2FUSE_CRASH_CLUSTER_BITS={ClusterBitsMax}"] : [],
            .. Compress ? (string[])["QCOW2FUSE_CRASH_COMPRESS=1"] : [],
        ]);

    /// <inheritdoc/>
    public bool LeaksNothing => true;

    /// <inheritdoc/>
    public bool Supports(ImageKind kind) => kind.ClusterBits <= ClusterBitsMax;

    /// <inheritdoc/>
    public void Create(BlockDevice file, ImageKind kind) => Qcow2Creator.Create(file, new Qcow2CreateOptions
    {
        Size = kind.Size,
        Version = kind.Version,
        ClusterSize = kind.ClusterSize,
        ExtendedL2 = kind.ExtendedL2,
        BackingFile = kind.HasBacking ? "backing.raw" : null,
        BackingFormat = kind.HasBacking ? "raw" : null,
    });

    /// <inheritdoc/>
    public BlockDevice Open(BlockDevice file, BlockDevice? backing) =>
        Qcow2Device.Open(file, new FormatOpenArguments
        {
            Backing = backing,
            Compress = Compress ? CompressedWrites.AsImage : CompressedWrites.Off,
            L2CacheBytesMax = SmallCaches ? 1 : 0,
            RefcountCacheBytesMax = SmallCaches ? 1 : 0,
        });
}
