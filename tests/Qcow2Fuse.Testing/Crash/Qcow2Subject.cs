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

    /// <inheritdoc/>
    public string Name => SmallCaches ? "Qcow2Device with small caches" : "Qcow2Device";

    /// <inheritdoc/>
    public string Environment => SmallCaches ? "QCOW2FUSE_CRASH_SMALL_CACHES=1" : string.Empty;

    /// <inheritdoc/>
    public bool LeaksNothing => true;

    /// <inheritdoc/>
    public bool Supports(ImageKind kind) => true;

    /// <inheritdoc/>
    public void Create(BlockDevice file, ImageKind kind) => Qcow2Creator.Create(file, OptionsOf(kind));

    /// <summary>What an image of a kind is made with.</summary>
    internal static Qcow2CreateOptions OptionsOf(ImageKind kind) => new()
    {
        Size = kind.Size,
        Version = kind.Version,
        ClusterSize = kind.ClusterSize,
        ExtendedL2 = kind.ExtendedL2,
        BackingFile = kind.HasBacking ? "backing.raw" : null,
        BackingFormat = kind.HasBacking ? "raw" : null,
    };

    /// <inheritdoc/>
    public BlockDevice Open(BlockDevice file, BlockDevice? backing) =>
        Qcow2Device.Open(file, new FormatOpenArguments
        {
            Backing = backing,
            L2CacheBytesMax = SmallCaches ? 1 : 0,
            RefcountCacheBytesMax = SmallCaches ? 1 : 0,
        });
}
