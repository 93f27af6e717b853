// SPDX-License-Identifier: MIT
using System.Text;

namespace Qcow2Fuse.Images.Reports;

/// <summary>Passes bytes of UTF-8 on to a <see cref="TextWriter"/>, for what can only write bytes.</summary>
/// <param name="output">Gets the text.</param>
/// <param name="escape">Makes each piece of it fit to be shown.</param>
internal sealed class Utf8TextStream(TextWriter output, Func<string, string> escape) : Stream
{
    private const int CharsAtOnce = 4096;

    private readonly Decoder _decoder = Encoding.UTF8.GetDecoder();
    private readonly char[] _chars = new char[CharsAtOnce];

    /// <inheritdoc/>
    public override bool CanRead => false;

    /// <inheritdoc/>
    public override bool CanSeek => false;

    /// <inheritdoc/>
    public override bool CanWrite => true;

    /// <inheritdoc/>
    public override long Length => throw new NotSupportedException();

    /// <inheritdoc/>
    public override long Position
    {
        get => throw new NotSupportedException();
        set => throw new NotSupportedException();
    }

    /// <inheritdoc/>
    public override void Write(ReadOnlySpan<byte> buffer)
    {
        while (!buffer.IsEmpty)
        {
            _decoder.Convert(buffer, _chars, flush: false, out int used, out int made, out _);
            output.Write(escape(new string(_chars, 0, made)));
            buffer = buffer[used..];
        }
    }

    /// <inheritdoc/>
    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    /// <inheritdoc/>
    public override void Flush()
    {
        // What it writes to is its owner's to flush.
    }

    /// <inheritdoc/>
    public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    /// <inheritdoc/>
    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    /// <inheritdoc/>
    public override void SetLength(long value) => throw new NotSupportedException();
}
