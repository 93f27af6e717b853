// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;

namespace Qcow2Fuse.Block.Chain;

/// <summary>An image format: how to recognise it, what other files it names, and how to open it.</summary>
public interface IImageFormat
{
    /// <summary>The name users type and backing-format fields hold: <c>qcow2</c>, <c>raw</c>.</summary>
    string Name { get; }

    /// <summary>Whether the first bytes of a file (512, fewer for a shorter file) are of this format.</summary>
    bool Probe(ReadOnlySpan<byte> head);

    /// <summary>
    /// Reads the header of <paramref name="file"/> and says what else is needed to open it. Opens and writes nothing.
    /// </summary>
    /// <exception cref="BlockException">The header is invalid, or uses something not supported.</exception>
    ImageReferences Inspect(BlockDevice file);

    /// <summary>
    /// Opens the image in <paramref name="file"/>. The device owns <paramref name="file"/> and the devices in
    /// <paramref name="arguments"/> once this returns; on an exception they stay the caller's.
    /// </summary>
    BlockDevice Open(BlockDevice file, FormatOpenArguments arguments);
}

/// <summary>The files an image names, and what forbids writing to it.</summary>
public sealed record ImageReferences
{
    /// <summary>The backing file's name as the image holds it, or null.</summary>
    public string? BackingName { get; init; }

    /// <summary>The backing file's format as the image holds it, or null where it names none.</summary>
    public string? BackingFormat { get; init; }

    /// <summary>Whether guest data lies in an external data file.</summary>
    public bool NeedsDataFile { get; init; }

    /// <summary>The data file's name as the image holds it, or null.</summary>
    public string? DataFileName { get; init; }

    /// <summary>
    /// Why the image must not be opened for writing although it could be read (a sentence part after "FILE: "), or
    /// null. Opening for writing is refused with it.
    /// </summary>
    public string? WriteRefusal { get; init; }

    /// <summary>What <see cref="WriteRefusal"/> is about, or null.</summary>
    public FailureCause? WriteRefusalCause { get; init; }

    /// <summary>
    /// What the image would lose if it was written (a sentence part after "FILE: "), or null. It is opened read-only
    /// instead, with a message, unless the user allows the loss.
    /// </summary>
    public string? WriteLoss { get; init; }
}

/// <summary>What the opener hands to <see cref="IImageFormat.Open"/>.</summary>
public sealed record FormatOpenArguments
{
    /// <summary>Open for reading only: not a byte of any file changes.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>The open backing device, or null for none.</summary>
    public BlockDevice? Backing { get; init; }

    /// <summary>The open external data file, or null for none.</summary>
    public BlockDevice? DataFile { get; init; }

    /// <summary>Write although something is lost by it; see <see cref="ImageReferences.WriteLoss"/>.</summary>
    public bool AllowLoss { get; init; }

    /// <summary>Passphrases for an encrypted image, or null for none.</summary>
    public ImageSecrets? Secrets { get; init; }

    /// <summary>What discards do with the storage behind them.</summary>
    public DiscardMode Discard { get; init; } = DiscardMode.Unmap;

    /// <summary>Whether what is written becomes compressed clusters.</summary>
    public CompressedWrites Compress { get; init; }

    /// <summary>
    /// Threads that compress finished clusters; null for as many as there are processors, at most 8. With 0 whoever
    /// finishes a cluster compresses it.
    /// </summary>
    public int? CompressionThreads { get; init; }

    /// <summary>Where memory for tables is taken from that stay in memory wholly.</summary>
    public MemoryBudget Memory { get; init; } = MemoryBudget.Unlimited;

    /// <summary>Upper bound of the cache of L2 slices in bytes; 0 for the default.</summary>
    public long L2CacheBytesMax { get; init; }

    /// <summary>Upper bound of the cache of refcount blocks in bytes; 0 for the default.</summary>
    public long RefcountCacheBytesMax { get; init; }

    /// <summary>Whether caches find memory for the tables most used when they are opened, not when they need it.
    /// </summary>
    public bool PopulateCaches { get; init; }

    /// <summary>
    /// Cached tables that nobody used for so long are given up; <see cref="TimeSpan.Zero"/> keeps them for ever.
    /// </summary>
    public TimeSpan CacheCleanInterval { get; init; } = TimeSpan.FromMinutes(10);

    /// <summary>
    /// Changes of metadata are written out by themselves at most so long after they were made;
    /// <see cref="TimeSpan.Zero"/> leaves that to flushes.
    /// </summary>
    public TimeSpan CommitInterval { get; init; }

    /// <summary>Takes what the user should know although the image is opened.</summary>
    public Action<ImageMessage> Report { get; init; } = static _ => { };
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
