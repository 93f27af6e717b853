// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Block.Filters;

/// <summary>A device that stands in front of one child and forwards everything to it. It owns the child.</summary>
public abstract class FilterDevice : BlockDevice
{
    private BlockDevice _child;

    /// <summary>Puts the filter in front of <paramref name="child"/>.</summary>
    protected FilterDevice(BlockDevice child) => _child = child;

    /// <summary>The device behind the filter. One that exchanges it sees to it that no request is under way.</summary>
    public BlockDevice Child
    {
        get => Volatile.Read(ref _child);
        private protected set => Volatile.Write(ref _child, value);
    }

    /// <summary>The device below all filters; the device itself where it is none.</summary>
    public static BlockDevice Unwrap(BlockDevice device)
    {
        while (device is FilterDevice filter)
            device = filter.Child;
        return device;
    }

    /// <inheritdoc/>
    public override string Name => Child.Name;

    /// <inheritdoc/>
    public override long Length => Child.Length;

    /// <inheritdoc/>
    public override bool IsReadOnly => Child.IsReadOnly;

    /// <inheritdoc/>
    public override BlockLimits Limits => Child.Limits;

    /// <inheritdoc/>
    public override long AllocatedBytes => Child.AllocatedBytes;

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination) => Child.Read(offset, destination);

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source) => Child.Write(offset, source);

    /// <inheritdoc/>
    public override void WriteParts(
        long offset, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, ReadOnlySpan<byte> tail) =>
        Child.WriteParts(offset, head, body, tail);

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap) =>
        Child.WriteZeroes(offset, length, mayUnmap);

    /// <inheritdoc/>
    public override void Discard(long offset, long length) => Child.Discard(offset, length);

    /// <inheritdoc/>
    public override void Flush() => Child.Flush();

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length) => Child.GetExtent(offset, length);

    /// <inheritdoc/>
    public override DeviceRun GetRun(long offset, long length, bool joinsUnstored) =>
        Child.GetRun(offset, length, joinsUnstored);

    /// <inheritdoc/>
    public override void KeepLength() => Child.KeepLength();

    /// <inheritdoc/>
    public override void Resize(long length) => Child.Resize(length);

    /// <inheritdoc/>
    /// <remarks>Reads only: what a filter does for a write it has to do for every write.</remarks>
    public override bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run)
    {
        run = default;
        return !isWrite && Child.TryBeginPlain(offset, length, isWrite, out run);
    }

    /// <inheritdoc/>
    public override void EndPlain(in PlainRun run) => Child.EndPlain(run);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
            Child.Dispose();
        base.Dispose(disposing);
    }
}
