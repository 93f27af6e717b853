// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Chain;

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
