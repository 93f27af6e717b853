// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Block.Chain;

/// <summary>What the opener hands to <see cref="IImageFormat.Open"/> for one image of a chain.</summary>
public sealed record FormatOpenArguments : ImageOptions
{
    /// <summary>With the defaults of all options.</summary>
    public FormatOpenArguments()
    {
    }

    /// <summary>With the options that hold for the whole chain.</summary>
    public FormatOpenArguments(ImageOptions options)
        : base(options)
    {
    }

    /// <summary>Open for reading only: not a byte of any file changes.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>The open backing device, or null for none.</summary>
    public BlockDevice? Backing { get; init; }

    /// <summary>The open external data file, or null for none.</summary>
    public BlockDevice? DataFile { get; init; }

    /// <summary>Takes what the user should know although the image is opened.</summary>
    public Action<ImageMessage> Report { get; init; } = static _ => { };
}
