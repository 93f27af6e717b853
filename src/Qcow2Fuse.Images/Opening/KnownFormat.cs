// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Images.Reports;
using Qcow2Fuse.Qcow2.Device;

namespace Qcow2Fuse.Images.Opening;

/// <summary>
/// A format that images can have: how it is opened as a disk, and what can be done with an image file of it without
/// that. What a format does not have is refused in a sentence.
/// </summary>
public abstract class KnownFormat
{
    /// <summary>Opens a file of the format as a disk.</summary>
    public abstract IImageFormat Opener { get; }

    /// <summary>The name that users type.</summary>
    public string Name => Opener.Name;

    /// <summary>Whether images of the format can keep snapshots inside.</summary>
    public virtual bool HasSnapshots => false;

    /// <summary>What the image file says of itself. Lists in it are read from the file when they are gone through.
    /// </summary>
    /// <param name="file">The image file; stays open as long as the report is used.</param>
    /// <param name="name">Its name in the report, not escaped.</param>
    /// <exception cref="BlockException">The header is invalid.</exception>
    public abstract ImageReport Describe(BlockDevice file, string name);

    /// <summary>Size of the disk in the image file, in bytes.</summary>
    /// <exception cref="BlockException">The header is invalid.</exception>
    public abstract long SizeOf(BlockDevice file);

    /// <summary>What the header alone says; null for a format without one.</summary>
    /// <exception cref="BlockException">The header is invalid.</exception>
    public virtual Qcow2HeaderInfo? ReadHeader(BlockDevice file) => null;

    /// <summary>Looks for contradictions in an image file that nobody changes meanwhile.</summary>
    /// <param name="file">The image file.</param>
    /// <param name="memory">Where memory for counts is taken from; null for no bound but the check's own.</param>
    /// <exception cref="BlockException">
    /// It cannot be checked, or has nothing to check (<see cref="FailureCode.NothingToCheck"/>).
    /// </exception>
    public virtual CheckResult Check(BlockDevice file, MemoryBudget? memory = null) =>
        throw NothingToCheck(file.Name);

    /// <summary>Gives lost space back in an image file that nobody else has open.</summary>
    /// <exception cref="BlockException">As <see cref="Check"/>, or a request fails.</exception>
    public virtual RepairResult RepairLeaks(BlockDevice file) => throw NothingToCheck(file.Name);

    /// <summary>The snapshots in an image file.</summary>
    /// <exception cref="BlockException">The header or the table is invalid, or there can be none.</exception>
    public virtual IReadOnlyCollection<SnapshotInfo> ReadSnapshots(BlockDevice file) => throw NoSnapshots(file.Name);

    /// <summary>
    /// Opens the image in a file to change its snapshots, without its backing file: none of that needs one. The device
    /// owns the file once this returns.
    /// </summary>
    /// <exception cref="BlockException">It cannot be opened, or cannot have any.</exception>
    public virtual BlockDevice OpenForSnapshots(BlockDevice file, ImageSecrets? secrets) =>
        throw NoSnapshots(file.Name);

    /// <summary>Refuses a check of a format without metadata.</summary>
    /// <param name="name">The image in the message.</param>
    public static BlockException NothingToCheck(string name) => new(
        BlockErrorKind.NotSupported,
        $"{name}: raw images have nothing that could be checked",
        cause: FailureCode.NothingToCheck);

    /// <summary>Refuses snapshots.</summary>
    /// <param name="name">The image in the message.</param>
    public static BlockException NoSnapshots(string name) =>
        new(BlockErrorKind.NotSupported, $"{name}: only qcow2 images have snapshots");
}
