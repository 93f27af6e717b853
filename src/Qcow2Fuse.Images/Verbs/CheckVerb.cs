// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Images.Opening;

namespace Qcow2Fuse.Images.Verbs;

/// <summary>What <c>check</c> is asked for.</summary>
/// <param name="Path">The image.</param>
/// <param name="Format">The name of its format; null to recognise it.</param>
/// <param name="Repair">Give lost space back.</param>
/// <param name="ForceShare">Look whoever else may be writing to it; not with a repair.</param>
public sealed record CheckRequest(string Path, string? Format = null, bool Repair = false, bool ForceShare = false);

/// <summary><c>check</c>: looks for contradictions in the metadata of an image, and repairs leaks.</summary>
public static class CheckVerb
{
    /// <summary>Checks an image file. Opens no other.</summary>
    /// <exception cref="BlockException">
    /// It cannot be opened or checked, or has nothing to check (<see cref="FailureCode.NothingToCheck"/>).
    /// </exception>
    public static RepairResult Run(CheckRequest request)
    {
        using BlockDevice file = ImageFile.Open(
            request.Path, request.Repair ? ImageFileUse.Change : ImageFile.ToLook(request.ForceShare));
        KnownFormat format = ImageFormats.Of(file, request.Format);
        return request.Repair ? format.RepairLeaks(file) : Unchanged(format.Check(file));
    }

    /// <summary>Checks the file of an image that is in use. Guest writes wait until it is done.</summary>
    /// <param name="device">The open image.</param>
    /// <param name="name">Its name in messages.</param>
    /// <param name="memory">Where memory for counts is taken from.</param>
    /// <exception cref="BlockException">As <see cref="Run"/>.</exception>
    public static RepairResult Of(BlockDevice device, string name, MemoryBudget memory) =>
        device is IStillFile still
            ? still.WhileStill(file => Unchanged(ImageFormats.Of(file, name: null).Check(file, memory)))
            : throw KnownFormat.NothingToCheck(name);

    private static RepairResult Unchanged(CheckResult check) =>
        new(check, check, LeaksFixed: 0, CorruptionsFixed: 0, Refused: null);
}
