// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Resizing;

/// <summary>Shrinking of the virtual disk, in the order that <see cref="Resizer.Resize"/> promises.</summary>
internal sealed class DiskShrink(
    ImageCore image, ImageMetadata metadata, WriteHold hold, DiskCut cut, BitmapLife bitmaps, IGathered? gathered)
{
    private readonly BlockDevice _data = image.Data;
    private readonly Qcow2Geometry _geometry = image.Geometry;
    private readonly ImageGate _gate = image.Gate;
    private readonly DiskSize _size = image.Size;

    /// <summary>
    /// Makes the disk smaller. The lock for changes is held, and the gate is not. Nothing is gathered meanwhile, as
    /// none may be for what is cut off.
    /// </summary>
    public void Shrink(long length)
    {
        gathered?.Pause();
        try
        {
            ShrinkTables(length);
        }
        finally
        {
            gathered?.Resume();
        }
    }

    /// <summary>Shrinks it with guest writes held back. Where it finds damage, it has changed nothing.</summary>
    private void ShrinkTables(long length)
    {
        bool isRaw = image.IsRawExternal;
        using (_gate.Enter())
        {
            hold.HoldWrites();
            long old = _size.Length;
            try
            {
                metadata.Flush.Run();
                cut.Check(new GuestOffset(_geometry.RoundUpToCluster(length)));
            }
            catch
            {
                hold.ReleaseWrites();
                throw;
            }

            _size.Length = length;
            try
            {
                metadata.Durable.UpdateHeader(header => header with { Size = length });
                bitmaps.Resize(length);
            }
            catch
            {
                _size.Length = old;
                hold.ReleaseWrites();
                throw;
            }

            try
            {
                metadata.Flush.Run();
                cut.UnmapFrom(new GuestOffset(_geometry.RoundUpToCluster(length)));
                metadata.Flush.RunAndFree();
                metadata.Flush.Run();
                metadata.Space.TrimFile();
            }
            finally
            {
                hold.ReleaseWrites();
            }
        }

        if (isRaw)
            _data.Resize(length);
    }
}
