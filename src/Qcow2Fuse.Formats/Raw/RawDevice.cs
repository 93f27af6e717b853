// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Formats.Raw;

/// <summary>
/// A disk that lies in its file byte for byte. Its length is that of the file when it was opened, to the byte; writes
/// past it are refused even where the file could grow. Only <see cref="Resize"/> changes it.
/// </summary>
public sealed class RawDevice : BlockDevice
{
    private readonly BlockDevice _file;
    private readonly DiscardMode _discard;
    private long _length;

    /// <summary>Opens the disk in <paramref name="file"/>, which it owns from then on.</summary>
    public RawDevice(BlockDevice file, bool readOnly = false, DiscardMode discard = DiscardMode.Unmap)
    {
        _file = file;
        _discard = discard;
        _length = file.Length;
        IsReadOnly = readOnly || file.IsReadOnly;
        if (!IsReadOnly)
            file.KeepLength();
    }

    /// <inheritdoc/>
    public override string Name => _file.Name;

    /// <inheritdoc/>
    public override long Length => Volatile.Read(ref _length);

    /// <inheritdoc/>
    public override bool IsReadOnly { get; }

    /// <inheritdoc/>
    public override BlockLimits Limits => _file.Limits with { GrowsOnWrite = false };

    /// <inheritdoc/>
    public override long AllocatedBytes => _file.AllocatedBytes;

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        CheckRange(offset, destination.Length);
        _file.Read(offset, destination);
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        CheckWritable();
        CheckRange(offset, source.Length);
        _file.Write(offset, source);
    }

    /// <inheritdoc/>
    public override void WriteParts(
        long offset, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, ReadOnlySpan<byte> tail)
    {
        CheckWritable();
        CheckRange(offset, (long)head.Length + body.Length + tail.Length);
        _file.WriteParts(offset, head, body, tail);
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        CheckWritable();
        CheckRange(offset, length);
        _file.WriteZeroes(offset, length, mayUnmap && _discard != DiscardMode.Ignore);
    }

    /// <inheritdoc/>
    public override void Discard(long offset, long length)
    {
        CheckWritable();
        CheckRange(offset, length);
        if (_discard != DiscardMode.Ignore)
            _file.Discard(offset, length);
    }

    /// <inheritdoc/>
    public override void Resize(long length)
    {
        CheckWritable();
        _file.Resize(length);
        Volatile.Write(ref _length, length);
    }

    /// <inheritdoc/>
    public override void Flush() => _file.Flush();

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length)
    {
        CheckRange(offset, length);
        return _file.GetExtent(offset, length);
    }

    /// <inheritdoc/>
    public override bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run)
    {
        run = default;
        bool isInside = offset >= 0 && length > 0 && offset <= Length - length;
        return isInside && !(isWrite && IsReadOnly) && _file.TryBeginPlain(offset, length, isWrite, out run);
    }

    /// <inheritdoc/>
    public override void EndPlain(in PlainRun run) => _file.EndPlain(run);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
            _file.Dispose();
        base.Dispose(disposing);
    }
}
