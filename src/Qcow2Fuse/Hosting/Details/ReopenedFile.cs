// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;
using Qcow2Fuse.Protocols;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// An image file, read-only, that is open for the moment of each read alone: whoever reads it bit by bit for a user may
/// stop in the middle, and holds no descriptor then.
/// </summary>
/// <param name="path">A path that leads to it.</param>
internal sealed class ReopenedFile(string path) : BlockDevice
{
    /// <inheritdoc/>
    public override string Name => path;

    /// <inheritdoc/>
    public override long Length => With(static file => file.Length);

    /// <inheritdoc/>
    public override bool IsReadOnly => true;

    /// <inheritdoc/>
    public override long AllocatedBytes => With(static file => file.AllocatedBytes);

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        using FileDevice file = FileDevice.Open(path, readOnly: true);
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
        using FileDevice file = FileDevice.Open(path, readOnly: true);
        return file.GetExtent(offset, length);
    }

    private T With<T>(Func<FileDevice, T> ask)
    {
        using FileDevice file = FileDevice.Open(path, readOnly: true);
        return ask(file);
    }
}
