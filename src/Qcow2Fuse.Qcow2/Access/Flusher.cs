// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Access;

/// <summary>Makes all that was written durable, at any time and at the end.</summary>
internal sealed class Flusher(
    ImageCore image, DurableFile durable, MetadataFlush flush, KeptDiscards? kept, IGathered? gathered,
    BitmapLife bitmaps, FirstWrite firstWrite)
{
    private volatile bool _isLossTold;

    /// <summary>
    /// Whether somebody was told of a flush after whose failure nothing is written any more: closing has nothing to
    /// add.
    /// </summary>
    public bool IsLossTold => _isLossTold;

    /// <summary>
    /// Makes all durable. The caller is told of what fails, and of what has failed before; he need not be the guest.
    /// </summary>
    public void Flush()
    {
        try
        {
            FlushUnmarked();
        }
        catch (BlockException e)
        {
            if (e.IsSpreading)
                image.Corrupt.Set();
            _isLossTold |= durable.HasFailed;
            throw;
        }
    }

    /// <summary>As <see cref="Flush"/>, for who marks a corrupt image himself and tells of what fails.</summary>
    public void FlushUnmarked()
    {
        // The guest is told by this flush of what failed before, also if it is stored by now. One failure stands for
        // all, or the next flush would fail for what this one has told of or stored.
        BlockException? failure = gathered?.TakeFailure();
        try
        {
            gathered?.StoreAll();
            using (image.Gate.Enter())
            {
                flush.Run();
                kept?.Punch();
            }
        }
        finally
        {
            BlockException? later = gathered?.TakeFailure();
            failure ??= later;
        }

        if (failure is not null)
            throw failure;
    }

    /// <summary>A clean close leaves nothing behind: all durable, nothing leaked.</summary>
    public void FlushForClose()
    {
        try
        {
            gathered?.StoreAll();
        }
        finally
        {
            CloseTables();
        }
    }

    private void CloseTables()
    {
        using (image.Gate.Enter())
        {
            try
            {
                bitmaps.StoreAtClose();
            }
            finally
            {
                if (!durable.HasFailed)
                {
                    flush.RunForClose();
                    kept?.Punch();
                }
            }

            firstWrite.TakeBack();
        }
    }
}
