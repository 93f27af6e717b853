// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Access;

/// <summary>Looking at the image file of a device that is in use.</summary>
internal sealed class StillLook(
    ImageCore image, MetadataFlush flush, WriteHold hold, BitmapLife bitmaps, Flusher flusher)
{
    /// <summary>
    /// Runs <paramref name="look"/>, such as a check, on the image file with everything written to it and nobody who
    /// changes it. Guest writes wait until it returns, and reads go on.
    /// </summary>
    /// <param name="look">Must neither change the file nor use the device. Called without the gate.</param>
    /// <exception cref="BlockException">It cannot be flushed, or what <paramref name="look"/> throws.</exception>
    public T Run<T>(Func<BlockDevice, T> look)
    {
        if (image.IsReadOnly)
            return look(image.File);
        flusher.Flush();
        lock (image.ChangeLock)
        {
            using (image.Gate.Enter())
            {
                bitmaps.BeginChange();
                try
                {
                    return WithFileHeld(look);
                }
                finally
                {
                    bitmaps.EndChange();
                }
            }
        }
    }

    private T WithFileHeld<T>(Func<BlockDevice, T> look)
    {
        hold.HoldWrites();
        try
        {
            flush.RunWhileHeld();
            using (image.Gate.Release())
                return look(image.File);
        }
        finally
        {
            hold.ReleaseWrites();
        }
    }
}
