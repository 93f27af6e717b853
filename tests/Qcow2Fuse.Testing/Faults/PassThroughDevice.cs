// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Testing.Faults;

/// <summary>What is asked of a device.</summary>
public enum BlockOp
{
    /// <summary><see cref="BlockDevice.Read"/>.</summary>
    Read,

    /// <summary><see cref="BlockDevice.Write"/> or <see cref="BlockDevice.WriteParts"/>.</summary>
    Write,

    /// <summary><see cref="BlockDevice.WriteZeroes"/>.</summary>
    WriteZeroes,

    /// <summary><see cref="BlockDevice.Discard"/>.</summary>
    Discard,

    /// <summary><see cref="BlockDevice.Resize"/>.</summary>
    Resize,

    /// <summary><see cref="BlockDevice.Flush"/>.</summary>
    Flush,
}

/// <summary>Forwards everything to one child, which it owns; a derived class changes one thing.</summary>
public abstract class PassThroughDevice(BlockDevice child) : BlockDevice
{
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

    /// <summary>The device below.</summary>
    protected BlockDevice Child { get; } = child;

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination) => Child.Read(offset, destination);

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source) => Child.Write(offset, source);

    /// <inheritdoc/>
    public override void WriteParts(
        long offset, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, ReadOnlySpan<byte> tail)
    {
        byte[] all = new byte[head.Length + body.Length + tail.Length];
        head.CopyTo(all);
        body.CopyTo(all.AsSpan(head.Length));
        tail.CopyTo(all.AsSpan(head.Length + body.Length));
        Write(offset, all);
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap) =>
        Child.WriteZeroes(offset, length, mayUnmap);

    /// <inheritdoc/>
    public override void Discard(long offset, long length) => Child.Discard(offset, length);

    /// <inheritdoc/>
    public override void Resize(long length) => Child.Resize(length);

    /// <inheritdoc/>
    public override void Flush() => Child.Flush();

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length) => Child.GetExtent(offset, length);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
            Child.Dispose();
        base.Dispose(disposing);
    }
}
