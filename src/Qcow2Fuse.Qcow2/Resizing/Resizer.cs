// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Access;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Resizing;

/// <summary>Changing the size of the virtual disk.</summary>
internal sealed class Resizer(
    ImageCore image, DiskGrowth growth, DiskShrink shrink, BitmapLife bitmaps, FirstWrite firstWrite,
    IGathered? gathered)
{
    private const int SectorBytes = 512;

    private readonly Qcow2Geometry _geometry = image.Geometry;
    private readonly ImageGate _gate = image.Gate;
    private readonly DiskSize _size = image.Size;

    /// <summary>Changes the size of the disk, a multiple of 512 bytes.</summary>
    /// <remarks>
    /// <para>
    /// Growing: a larger L1 table is durable before the header points at it. Whatever old entries, a longer backing
    /// file or the rest of the last cluster would show is zeroed, and durably so, before the size in the header
    /// follows last.
    /// </para>
    /// <para>
    /// Shrinking: the size in the header is durable first; only then is what lies beyond it given up. A crash between
    /// the two leaves entries beyond the end, which nobody can see and which growing zeroes.
    /// </para>
    /// </remarks>
    /// <param name="length">The new size in bytes.</param>
    /// <param name="preallocation">What is done for the storage of new space; ignored when shrinking.</param>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.OutOfRange"/> for a size that is no multiple of 512,
    /// <see cref="BlockErrorKind.TooLarge"/> where the L1 table would exceed 32 MiB,
    /// <see cref="BlockErrorKind.NotSupported"/> for a version 2 image with snapshots, which do not hold the size of
    /// their disk: that of the image would become theirs.
    /// </exception>
    public void Resize(long length, Preallocation preallocation)
    {
        firstWrite.Begin();
        if (gathered is not null)
            image.Corrupt.Guard(gathered.StoreAll);
        if (length < 0 || length % SectorBytes != 0)
            throw BlockException.About(
                image.Name, BlockErrorKind.OutOfRange, $"size {length} is not a multiple of {SectorBytes}");
        long entries = _geometry.L1EntriesFor(length);
        if (entries > Qcow2HeaderReader.L1BytesMax / 8)
            throw BlockException.About(
                image.Name, BlockErrorKind.TooLarge, $"{length} bytes need too large an L1 table");
        lock (image.ChangeLock)
        {
            if (length == _size.Length)
                return;
            RefuseForSnapshots();
            using (_gate.Enter())
                bitmaps.BeginResize(length);
            try
            {
                // What is damaged is marked before bitmaps are stored.
                image.Corrupt.Guard(() => Change(length, (int)entries, preallocation));
            }
            finally
            {
                using (_gate.Enter())
                    bitmaps.EndResize();
            }
        }
    }

    private void Change(long length, int entries, Preallocation preallocation)
    {
        if (length < _size.Length)
            shrink.Shrink(length);
        else
            growth.Grow(length, entries, preallocation);
    }

    private void RefuseForSnapshots()
    {
        Qcow2Header header = image.Header.Current;
        if (header.Version < 3 && header.SnapshotCount > 0)
            throw BlockException.About(image.Name, BlockErrorKind.NotSupported,
                "a version 2 image with snapshots keeps its size, as they do not hold the size of their disk",
                FailureCode.NeedsVersion3);
    }
}
