// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Chain;

/// <summary>How the image file is cached by the host and when writes become durable; QEMU's meaning.</summary>
public enum CacheMode
{
    /// <summary>Buffered file; writes are durable after a flush.</summary>
    Writeback,

    /// <summary>O_DIRECT file; writes are durable after a flush.</summary>
    None,

    /// <summary>Buffered file; every write is flushed before it returns.</summary>
    Writethrough,

    /// <summary>O_DIRECT file; every write is flushed before it returns.</summary>
    DirectSync,
}

/// <summary>What a user asks for when an image is opened.</summary>
public sealed record ImageOpenOptions : ImageOptions
{
    /// <summary>With the defaults of all options.</summary>
    public ImageOpenOptions()
    {
    }

    /// <summary>With options for how the image is read and written.</summary>
    public ImageOpenOptions(ImageOptions options)
        : base(options)
    {
    }

    /// <summary>The image file as the user named it.</summary>
    public required string Path { get; init; }

    /// <summary>The format's name; null to take the one format whose magic the file carries (never raw).</summary>
    public string? Format { get; init; }

    /// <summary>Open for reading only: not a byte of any file changes.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>How the image file is cached.</summary>
    public CacheMode Cache { get; init; } = CacheMode.Writeback;

    /// <summary>Directories outside the image's own in which files named by the image may lie.</summary>
    public IReadOnlyList<string> AllowPaths { get; init; } = [];

    /// <summary>
    /// Files to use as backing files instead of those that images name, by the number of the image that names one in
    /// its chain: 0 is the top image. A number that the chain does not have is refused.
    /// </summary>
    public IReadOnlyDictionary<int, string> BackingFiles { get; init; } = new Dictionary<int, string>();

    /// <summary>Open the top image without its backing file: what it does not hold reads as zeroes.</summary>
    public bool NoBacking { get; init; }

    /// <summary>
    /// Format of the top image's backing file, if the image names none or <see cref="BackingFiles"/> has another, and
    /// of any other for which no image names one; null refuses such an image.
    /// </summary>
    public string? BackingFormat { get; init; }

    /// <summary>
    /// As <see cref="BackingFormat"/>, for the backing file of one image of the chain, by its number.
    /// </summary>
    public IReadOnlyDictionary<int, string> BackingFormats { get; init; } = new Dictionary<int, string>();

    /// <summary>The external data file, trusted because the user named it; null to use the image's own name.</summary>
    public string? DataFile { get; init; }

    /// <summary>Take no image lock (for file systems without OFD locks).</summary>
    public bool NoLock { get; init; }

    /// <summary>Read-only opens only: do not ask whether somebody else writes to the image.</summary>
    public bool ForceShare { get; init; }

    /// <summary>The deepest chain that is opened, the top image counted.</summary>
    public int ChainDepthMax { get; init; } = 64;
}
