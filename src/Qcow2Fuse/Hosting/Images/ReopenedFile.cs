// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>
/// An image file, read-only, that is open for the moment of each read alone: whoever reads it bit by bit for a user may
/// stop in the middle, and holds no descriptor then.
/// </summary>
/// <param name="name">What messages call it.</param>
/// <param name="open">Opens it.</param>
internal sealed class ReopenedFile(string name, Func<FileDevice> open) : BlockDevice
{
    /// <inheritdoc/>
    public override string Name => name;

    /// <inheritdoc/>
    public override long Length => With(static file => file.Length);

    /// <inheritdoc/>
    public override bool IsReadOnly => true;

    /// <inheritdoc/>
    public override long AllocatedBytes => With(static file => file.AllocatedBytes);

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        using FileDevice file = open();
        file.Read(offset, destination);
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source) => CheckWritable();

    /// <inheritdoc/>
    public override void Flush()
    {
        // Nothing is written.
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length)
    {
        using FileDevice file = open();
        return file.GetExtent(offset, length);
    }

    private T With<T>(Func<FileDevice, T> ask)
    {
        using FileDevice file = open();
        return ask(file);
    }
}
