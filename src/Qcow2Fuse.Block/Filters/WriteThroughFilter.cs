// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Block.Filters;

/// <summary>Makes every change durable before it returns: the cache modes writethrough and directsync.</summary>
public sealed class WriteThroughFilter(BlockDevice child) : FilterDevice(child)
{
    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        Child.Write(offset, source);
        Child.Flush();
    }

    /// <inheritdoc/>
    public override void WriteParts(
        long offset, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, ReadOnlySpan<byte> tail)
    {
        Child.WriteParts(offset, head, body, tail);
        Child.Flush();
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        Child.WriteZeroes(offset, length, mayUnmap);
        Child.Flush();
    }

    /// <inheritdoc/>
    public override void Discard(long offset, long length)
    {
        Child.Discard(offset, length);
        Child.Flush();
    }

    /// <inheritdoc/>
    public override void Resize(long length)
    {
        Child.Resize(length);
        Child.Flush();
    }
}
