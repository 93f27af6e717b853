// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Snapshots;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>Another device below an open image. The header is not changed: it names what it named before.</summary>
internal sealed class BackingChange(ImageCore image, SnapshotSet snapshots, IGathered? gathered)
{
    /// <summary>
    /// Puts another device below. The caller has no request under way; packers, which complete clusters from what is
    /// below, and readers of snapshots are seen to here.
    /// </summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.Locked"/> while a snapshot is open: it shows what is below too. Or something that was
    /// gathered could not be stored. Nothing has changed.
    /// </exception>
    public BlockDevice? Run(BlockDevice? backing)
    {
        gathered?.Pause();
        try
        {
            using (image.Gate.Enter())
            {
                if (snapshots.AreRead)
                    throw BlockException.About(image.Name, BlockErrorKind.Locked,
                        "a snapshot is being read, and what is below it cannot be exchanged");
                return image.ChangeBacking(backing);
            }
        }
        finally
        {
            gathered?.Resume();
        }
    }
}
