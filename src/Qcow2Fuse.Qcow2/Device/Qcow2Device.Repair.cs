// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Device;

/// <content>An image that was not closed cleanly.</content>
public sealed partial class Qcow2Device
{
    /// <summary>Repairs the refcounts of a dirty image before it is used, and returns its header then.</summary>
    private static Qcow2Header RepairAtOpen(BlockDevice file, FormatOpenArguments arguments)
    {
        RepairResult repair = ImageRepair.Dirty(file);
        arguments.Report(new ImageMessage(
            $"{file.Name}: was not closed cleanly; its refcounts were repaired "
                + $"({repair.CorruptionsFixed} too low or marked wrong, {repair.LeaksFixed} too high)",
            Cause: null));
        return Qcow2HeaderReader.Read(file);
    }
}
