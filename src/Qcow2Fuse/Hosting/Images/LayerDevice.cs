// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>
/// One layer of a chain alone, read-only: what it does not store itself reads as zeroes, whatever lies below. The
/// layer stays its owner's.
/// </summary>
internal sealed class LayerDevice(BlockDevice layer) : BlockDevice
{
    /// <inheritdoc/>
    public override string Name => layer.Name;

    /// <inheritdoc/>
    public override long Length => layer.Length;

    /// <inheritdoc/>
    public override bool IsReadOnly => true;

    /// <inheritdoc/>
    public override long AllocatedBytes => layer.AllocatedBytes;

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        CheckRange(offset, destination.Length);
        while (!destination.IsEmpty)
        {
            Extent extent = layer.GetExtent(offset, destination.Length);
            Span<byte> part = destination[..(int)extent.Length];
            if (extent.Kind is ExtentKind.Unallocated or ExtentKind.Zero)
                part.Clear();
            else
                layer.Read(offset, part);
            destination = destination[part.Length..];
            offset += part.Length;
        }
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source) => CheckWritable();

    /// <inheritdoc/>
    public override void Flush()
    {
        // Nothing is ever written through this view.
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length)
    {
        Extent extent = layer.GetExtent(offset, length);
        return extent.Kind == ExtentKind.Unallocated ? extent with { Kind = ExtentKind.Zero } : extent;
    }

    /// <inheritdoc/>
    public override DeviceRun GetRun(long offset, long length, bool joinsUnstored)
    {
        DeviceRun run = layer.GetRun(offset, length, joinsUnstored: true);
        return run.Kind == RunKind.Stored ? run : run with { Kind = RunKind.Zero };
    }
}
