// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Capabilities;

/// <summary>What a check has found at one place.</summary>
public enum FindingKind
{
    /// <summary>A refcount is higher than the number of references: space is lost, nothing else.</summary>
    Leak,

    /// <summary>A refcount is lower than the number of references: the cluster may be handed out again.</summary>
    RefcountTooLow,

    /// <summary>COPIED is set where the refcount is not one, or is not set where it is.</summary>
    CopiedFlag,

    /// <summary>A cluster is used for two things that exclude each other.</summary>
    Overlap,

    /// <summary>An entry of the L1, L2 or refcount table, or of a table of snapshots or bitmaps, is invalid.</summary>
    InvalidEntry,

    /// <summary>Something could not be read.</summary>
    Unreadable,
}

/// <summary>One finding.</summary>
/// <param name="Kind">What it is.</param>
/// <param name="Place">Host offset in bytes of the cluster or of the entry.</param>
/// <param name="Text">One line that names places and values, fit to print.</param>
public sealed record CheckFinding(FindingKind Kind, long Place, string Text);

/// <summary>The figures of a check, in the terms of qemu-img.</summary>
public sealed record CheckResult
{
    /// <summary>The findings in the order they were met, the first <see cref="FindingsMax"/> of them.</summary>
    public required IReadOnlyList<CheckFinding> Findings { get; init; }

    /// <summary>How many findings are kept; the figures count all.</summary>
    public const int FindingsMax = 1000;

    /// <summary>Everything that is wrong and is no leak. An entry reached from several L1 tables counts for each.
    /// </summary>
    public required long Corruptions { get; init; }

    /// <summary>Clusters whose refcount is too high.</summary>
    public required long Leaks { get; init; }

    /// <summary>What could not be read.</summary>
    public required long CheckErrors { get; init; }

    /// <summary>Clusters of the disk.</summary>
    public required long TotalClusters { get; init; }

    /// <summary>Clusters of the disk that have a host cluster or are compressed.</summary>
    public required long AllocatedClusters { get; init; }

    /// <summary>Allocated clusters that do not lie behind their predecessor, all compressed ones among them.</summary>
    public required long FragmentedClusters { get; init; }

    /// <summary>Clusters of the disk that are compressed.</summary>
    public required long CompressedClusters { get; init; }

    /// <summary>Offset in the file behind the last cluster that is counted or used.</summary>
    public required long ImageEndOffset { get; init; }

    /// <summary>Whether nothing at all was found.</summary>
    public bool IsClean => Corruptions == 0 && Leaks == 0 && CheckErrors == 0;
}

/// <summary>What a repair has done.</summary>
/// <param name="Before">The image as it was.</param>
/// <param name="After">The image as it is now; the same where nothing was changed.</param>
/// <param name="LeaksFixed">Refcounts that were lowered.</param>
/// <param name="CorruptionsFixed">Refcounts that were raised, and COPIED flags that were set or cleared.</param>
/// <param name="Refused">Why nothing was changed (a sentence part after "FILE: "), or null.</param>
public sealed record RepairResult(
    CheckResult Before, CheckResult After, long LeaksFixed, long CorruptionsFixed, string? Refused);
