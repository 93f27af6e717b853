// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>
/// A read-only disk inside an image, such as one of its layers: open while it has users, and keeping its image open.
/// </summary>
/// <param name="image">The image it lies in.</param>
/// <param name="length">Its size in bytes.</param>
/// <param name="allocatedBytes">Bytes it occupies.</param>
/// <param name="open">Makes the disk of the open image.</param>
internal sealed class DerivedSource(
    HostedImage image, long length, long allocatedBytes, Func<BlockDevice, BlockDevice> open) : DiskSource
{
    /// <inheritdoc/>
    public override long Length => Current?.Length ?? length;

    /// <inheritdoc/>
    public override long AllocatedBytes => allocatedBytes;

    /// <inheritdoc/>
    public override bool IsReadOnly => true;

    /// <inheritdoc/>
    protected override BlockDevice Open()
    {
        BlockDevice device = image.Acquire();
        try
        {
            return open(device);
        }
        catch
        {
            image.Release();
            throw;
        }
    }

    /// <inheritdoc/>
    protected override void Close(BlockDevice device)
    {
        device.Dispose();
        image.Release();
    }
}
