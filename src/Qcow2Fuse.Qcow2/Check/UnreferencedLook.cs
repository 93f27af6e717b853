// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Access;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>What the file of an open image holds and no table refers to.</summary>
internal sealed class UnreferencedLook(ImageCore image, ImageMetadata metadata, WriteHold hold, StillLook still)
{
    /// <summary>Memory for counting references while guests go on: clusters of 64 KiB for 4 TiB.</summary>
    private const long LookBytesMax = 256L << 20;

    /// <summary>
    /// The host clusters that no table refers to, snapshots and bitmaps included, as a read-only device of the length
    /// of the image file: each at its host offset, and zeroes in place of all others. Which they are is settled when
    /// this returns: those that were free at its begin and have not been allocated since. The caller disposes it
    /// before the image.
    /// </summary>
    /// <remarks>
    /// All tables are read. Guest writes wait only for the flush before that; snapshots, changes of the size and
    /// checks wait until it has returned, and clusters that are freed meanwhile are handed out after it. A table that
    /// cannot be read refers to nothing.
    /// </remarks>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.TooLarge"/>: the references, or the runs of clusters without one, are too many.
    /// </exception>
    public BlockDevice Open()
    {
        if (!image.IsReadOnly && LookWhileInUse() is { } seen)
            return seen;
        return still.Run(file =>
        {
            using CheckRun run = new(file, LookBytesMax, metadata.Memory);
            run.Run();
            return Unreferenced(run, []);
        });
    }

    /// <summary>
    /// Every reference that comes while tables are read is to a cluster that is allocated meanwhile, which is
    /// remembered; and what a table that is read has named stays what it is, because it is not freed before (the
    /// epoch).
    /// </summary>
    /// <returns>Null if more was allocated than can be remembered.</returns>
    private UnreferencedDevice? LookWhileInUse()
    {
        AllocationLog log = new();
        long epoch = 0;
        using CheckRun run = still.Run(file =>
        {
            CheckRun begun = new(file, LookBytesMax, metadata.Memory);
            using (image.Gate.Enter())
            {
                hold.BeginLook();
                epoch = metadata.Epochs.Enter();
                metadata.Refcounts.Log = log;
            }

            return begun;
        });
        try
        {
            run.Run();
        }
        finally
        {
            using (image.Gate.Enter())
            {
                metadata.Refcounts.Log = null;
                hold.EndLook();
            }

            metadata.Epochs.Exit(epoch);
        }

        return log.HasOverflowed ? null : Unreferenced(run, log.Runs);
    }

    private UnreferencedDevice Unreferenced(CheckRun run, ReadOnlySpan<ClusterRun> allocated) => new(
        image.File, image.Geometry.ClusterBits, run.FileClusters,
        ClusterRuns.Without(ClusterRuns.Unreferenced(run), allocated));
}
