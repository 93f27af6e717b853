// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>
/// Puts the refcounts of an image right that nobody else has open. Only refcounts and COPIED flags are changed, and
/// only if nothing else is wrong, because then every reference is known. A crash at any moment leaves an image that can
/// be repaired again: refcounts are raised first, and lowered last.
/// </summary>
public static class ImageRepair
{
    /// <summary>
    /// Lowers refcounts that are too high, as <c>qemu-img check -r leaks</c>; COPIED flags too, if all else is right.
    /// If nothing is wrong then, the image is not marked dirty or corrupt any more.
    /// </summary>
    /// <exception cref="BlockException">The image cannot be checked, or a request fails.</exception>
    public static RepairResult Leaks(BlockDevice file)
    {
        CheckResult before;
        RepairRun repair;
        using (CheckRun run = new(file))
        {
            before = run.Run();
            if (run.HasUnexplained)
                return new RepairResult(
                    before, before, 0, 0, "nothing was repaired, because more than refcounts is damaged");
            repair = new RepairRun(file, run);
            if (before.Corruptions == run.CopiedErrors)
                repair.SetCopiedFlags();
            repair.Lower();
        }

        CheckResult after = repair.HasChanged ? ImageChecker.Check(file) : before;
        if (after.Corruptions == 0 && after.CheckErrors == 0)
            ClearMarks(file, FeatureBits.Dirty | FeatureBits.Corrupt);
        return new RepairResult(before, after, repair.Lowered, repair.Raised + repair.FlagsChanged, Refused: null);
    }

    /// <summary>
    /// Repairs an image that was not closed cleanly (incompatible feature bit 0): all refcounts, the COPIED flags, and
    /// at last the bit.
    /// </summary>
    /// <exception cref="BlockException">
    /// More is wrong than refcounts, or a request fails; the image is still marked dirty.
    /// </exception>
    public static RepairResult Dirty(BlockDevice file)
    {
        CheckResult before;
        RepairRun repair;
        using (CheckRun run = new(file))
        {
            before = run.Run();
            if (run.HasUnexplained)
                throw NotRepaired(file, before);
            repair = new RepairRun(file, run);
            if (!before.IsClean || run.HasCountsBeyondEnd)
            {
                repair.Raise();
                repair.SetCopiedFlags();
                repair.Lower();
            }
        }

        CheckResult after = repair.HasChanged ? ImageChecker.Check(file) : before;
        if (after.Corruptions != 0 || after.CheckErrors != 0)
            throw NotRepaired(file, after);
        ClearMarks(file, FeatureBits.Dirty);
        return new RepairResult(before, after, repair.Lowered, repair.Raised + repair.FlagsChanged, Refused: null);
    }

    private static BlockException NotRepaired(BlockDevice file, CheckResult result)
    {
        CheckFinding? first = result.Findings.FirstOrDefault(
            static finding => finding.Kind is FindingKind.Overlap or FindingKind.InvalidEntry or FindingKind.Unreadable)
            ?? result.Findings.FirstOrDefault(static finding => finding.Kind != FindingKind.Leak);
        return new BlockException(
            BlockErrorKind.ReadOnly,
            $"{file.Name}: the image was not closed cleanly and cannot be repaired: {first?.Text}",
            cause: FailureCode.DamagedSeeCheck);
    }

    private static void ClearMarks(BlockDevice file, ulong marks)
    {
        Qcow2Header header = Qcow2HeaderReader.Read(file);
        if ((header.Incompatible & marks) == 0)
            return;
        new HeaderStore(file, header, new ImageGate()).Update(h => h with { Incompatible = h.Incompatible & ~marks });
        file.Flush();
    }
}
