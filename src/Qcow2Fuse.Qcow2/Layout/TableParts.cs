// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>
/// A table of entries of different lengths in an image file, read from its beginning to its end by parts: no more of it
/// is in memory than one part, or one entry.
/// </summary>
/// <param name="file">The image file.</param>
/// <param name="offset">Where the table begins.</param>
/// <param name="length">Its length in bytes at most; what lies beyond the end of the file reads as zeroes.</param>
internal sealed class TableParts(BlockDevice file, long offset, long length)
{
    private const int PartBytes = 64 << 10;

    private byte[] _part = new byte[PartBytes];
    private long _start;
    private int _filled;

    /// <summary>
    /// Bytes of the table, valid until the next call; fewer than asked for, or none, at the end of the table.
    /// </summary>
    /// <param name="place">Where they begin in the table.</param>
    /// <param name="count">How many.</param>
    public ReadOnlySpan<byte> At(long place, int count)
    {
        count = (int)Math.Clamp(length - place, 0, count);
        if (place < _start || place + count > _start + _filled)
            Fill(place, count);
        return _part.AsSpan((int)(place - _start), count);
    }

    private void Fill(long place, int count)
    {
        int wanted = (int)Math.Min(length - place, Math.Max(count, PartBytes));
        if (wanted > _part.Length)
            _part = new byte[wanted];
        _filled = 0;
        file.ReadPadded(offset + place, _part.AsSpan(0, wanted));
        _start = place;
        _filled = wanted;
    }
}

/// <summary>The entries of a table, which are read again from the file whenever somebody goes through them.</summary>
/// <param name="count">How many there are.</param>
/// <param name="read">Reads them.</param>
internal sealed class TableList<T>(int count, Func<IEnumerable<T>> read) : IReadOnlyCollection<T>
{
    /// <inheritdoc/>
    public int Count => count;

    /// <inheritdoc/>
    public IEnumerator<T> GetEnumerator() => read().GetEnumerator();

    System.Collections.IEnumerator System.Collections.IEnumerable.GetEnumerator() => GetEnumerator();
}
