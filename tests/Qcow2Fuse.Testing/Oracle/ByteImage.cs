// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Testing.Oracle;

/// <summary>The bytes of a file as the oracle sees them: a length and random access, nothing else.</summary>
public abstract class ByteImage
{
    /// <summary>The size of the file in bytes.</summary>
    public abstract long Length { get; }

    /// <summary>
    /// Fills <paramref name="destination"/> from <paramref name="offset"/> on, with zeroes past the end.
    /// </summary>
    public abstract void Read(long offset, Span<byte> destination);

    /// <summary>
    /// The first offset in [<paramref name="offset"/>, <paramref name="end"/>) at or before which all bytes are known
    /// to be zero, or <paramref name="end"/>. It lets tables that are mostly empty be read quickly; the answer
    /// <paramref name="offset"/> is always right.
    /// </summary>
    public virtual long SkipZeroes(long offset, long end) => offset;

    /// <summary>The bytes of the whole file.</summary>
    public byte[] ToArray()
    {
        byte[] all = new byte[checked((int)Length)];
        Read(0, all);
        return all;
    }
}

/// <summary>A file held in an array.</summary>
public sealed class ArrayImage(byte[] bytes) : ByteImage
{
    /// <inheritdoc/>
    public override long Length => bytes.LongLength;

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        int inside = (int)Math.Clamp(bytes.LongLength - offset, 0, destination.Length);
        if (inside > 0)
            bytes.AsSpan((int)offset, inside).CopyTo(destination);
        destination[inside..].Clear();
    }
}

/// <summary>A file on disk, read as it is asked for. Dispose it to close the file.</summary>
public sealed class FileImage : ByteImage, IDisposable
{
    private readonly FileStream _stream;

    /// <summary>Opens <paramref name="path"/> for reading, whoever else has it open.</summary>
    public FileImage(string path) =>
        _stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, bufferSize: 0);

    /// <inheritdoc/>
    public override long Length => _stream.Length;

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            int got = RandomAccess.Read(_stream.SafeFileHandle, destination, offset);
            if (got == 0)
                break;
            offset += got;
            destination = destination[got..];
        }

        destination.Clear();
    }

    /// <inheritdoc/>
    public void Dispose() => _stream.Dispose();
}
