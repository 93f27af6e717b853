// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>A backing file in memory: read-only, and alive after it is disposed.</summary>
public sealed class BackingDevice(byte[] bytes) : BlockDevice
{
    /// <inheritdoc/>
    public override string Name => "backing.raw";

    /// <inheritdoc/>
    public override long Length => bytes.LongLength;

    /// <inheritdoc/>
    public override bool IsReadOnly => true;

    /// <summary>Another device with the same content.</summary>
    public BackingDevice Another() => new(bytes);

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        CheckRange(offset, destination.Length);
        bytes.AsSpan((int)offset, destination.Length).CopyTo(destination);
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source) => CheckWritable();

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap) => CheckWritable();

    /// <inheritdoc/>
    public override void Discard(long offset, long length) => CheckWritable();

    /// <inheritdoc/>
    public override void Flush()
    {
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length)
    {
        CheckRange(offset, length);
        return new Extent(offset, length, ExtentKind.Data, offset, 0);
    }
}
