// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Memory;

namespace Qcow2Fuse.Block.Chain;

/// <summary>How an image is read and written: what holds for every image of a chain, whatever its format.</summary>
public record ImageOptions
{
    /// <summary>What discards do with the storage behind them.</summary>
    public DiscardMode Discard { get; init; } = DiscardMode.Unmap;

    /// <summary>Whether what is written becomes compressed clusters.</summary>
    public CompressedWrites Compress { get; init; }

    /// <summary>
    /// Write an image although it loses something by it that cannot be kept valid; see
    /// <see cref="ImageReferences.WriteLoss"/>.
    /// </summary>
    public bool AllowLoss { get; init; }

    /// <summary>Passphrases for encrypted images, needed until the image is open; null for none.</summary>
    public ImageSecrets? Secrets { get; init; }

    /// <summary>Where memory for tables is taken from that stay in memory wholly.</summary>
    public MemoryBudget Memory { get; init; } = MemoryBudget.Unlimited;

    /// <summary>
    /// What is written reaches the image by itself at most so long after; <see cref="TimeSpan.Zero"/> leaves that to
    /// flushes.
    /// </summary>
    public TimeSpan CommitInterval { get; init; }

    /// <summary>What single formats are told besides, at most one record each.</summary>
    public IReadOnlyList<FormatOptions> Formats { get; init; } = [];

    /// <summary>What a format is told besides; its defaults where it is told nothing.</summary>
    public T For<T>()
        where T : FormatOptions, new() => Formats.OfType<T>().FirstOrDefault() ?? new T();
}

/// <summary>What becomes of the storage behind a discarded range.</summary>
public enum DiscardMode
{
    /// <summary>It is given back to the host.</summary>
    Unmap,

    /// <summary>Nothing happens.</summary>
    Ignore,

    /// <summary>
    /// It is given back to the host, but the image keeps the place: the next write goes there again, which keeps the
    /// file from being scattered.
    /// </summary>
    NoUnref,
}

/// <summary>Whether what the guest writes is compressed, and how.</summary>
public enum CompressedWrites
{
    /// <summary>It is not.</summary>
    Off,

    /// <summary>As the image's header says.</summary>
    AsImage,

    /// <summary>With deflate; other images are refused.</summary>
    Zlib,

    /// <summary>With Zstandard; other images are refused.</summary>
    Zstd,
}
