// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>How much time the maker of a text has.</summary>
internal sealed class TextPace
{
    /// <summary>Whether somebody has waited for long: the next line is to come with what is known of it.</summary>
    public bool IsOver { get; set; }
}

/// <summary>
/// An open text, of which nothing but the line being read is in memory. It is made anew from its beginning for whoever
/// goes back in it.
/// </summary>
/// <param name="lines">
/// Makes the lines, without their ends. Null stands for a step of work that has come to no line yet: each is to be
/// small, and what a maker holds between two lines too.
/// </param>
/// <param name="makerBytes">What a maker holds beside two lines, in bytes.</param>
/// <param name="room">The memory of all texts.</param>
internal sealed class TextCursor(
    Func<TextPace, IEnumerable<string?>> lines, int makerBytes, TextRoom room) : IDisposable
{
    /// <summary>A line as bytes, of which three are for a character, and as characters.</summary>
    private const int LineFactor = 2;

    private readonly TextPace _pace = new();
    private readonly Lock _lock = new();
    private IEnumerator<string?>? _lines;
    private byte[] _line = [];
    private int _lineLength;
    private int _taken;
    private long _position;
    private bool _isAtEnd;
    private bool _isClosed;

    /// <summary>What it has in memory now, in bytes.</summary>
    public long Bytes => _lines is null ? 0 : makerBytes + ((long)LineFactor * _line.Length);

    /// <summary>Its place in the room, which alone uses it.</summary>
    public LinkedListNode<TextCursor>? Place { get; set; }

    /// <summary>What the room counts for it.</summary>
    public long CountedBytes { get; set; }

    /// <summary>Makes the first line, or fails.</summary>
    public void Begin()
    {
        lock (_lock)
        {
            _ = MakeStep();
            room.NoteRead(this);
        }
    }

    /// <summary>Lets go of what it has in memory, unless somebody reads.</summary>
    public bool TryRest()
    {
        if (!_lock.TryEnter())
            return false;
        try
        {
            StartAgain();
            return true;
        }
        finally
        {
            _lock.Exit();
        }
    }

    /// <summary>Reads from a place of the text; fewer bytes than there is room for where that takes long.</summary>
    /// <returns>
    /// Bytes read, 0 at the end, −EINTR where nobody waits any more, or −EAGAIN where somebody else reads for longer
    /// than the walk may take, or where the place is so far behind that the time does not do to get there.
    /// </returns>
    public int Read(long offset, Span<byte> destination, in Walk walk)
    {
        // Whoever waits here keeps others from being served: only the few may for long.
        if (!_lock.TryEnter(walk.Left))
            return -Errno.EAGAIN;
        try
        {
            if (offset < _position)
                StartAgain();
            return ReadFrom(offset, destination, walk);
        }
        finally
        {
            try
            {
                room.NoteRead(this);
            }
            finally
            {
                _lock.Exit();
            }
        }
    }

    /// <summary>Lets go of what the maker holds.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            StartAgain();
            _isClosed = true;
            room.Leave(this);
        }
    }

    private int ReadFrom(long offset, Span<byte> destination, in Walk walk)
    {
        int filled = 0;
        while (filled < destination.Length)
        {
            int left = _lineLength - _taken;
            if (left > 0)
            {
                long skipped = Math.Min(left, offset - _position);
                int moved = skipped > 0 ? (int)skipped : Math.Min(left, destination.Length - filled);
                if (skipped <= 0)
                {
                    _line.AsSpan(_taken, moved).CopyTo(destination[filled..]);
                    filled += moved;
                    offset += moved;
                }

                _taken += moved;
                _position += moved;
                continue;
            }

            // On the way to a place far behind nothing is filled, and the next read goes on from here.
            if (walk.IsOver && (filled > 0 || offset > _position))
                return filled > 0 ? filled : -Errno.EAGAIN;
            if (walk.IsInterrupted)
                return -Errno.EINTR;
            _pace.IsOver = walk.IsOver;
            if (!MakeStep())
                break;
        }

        return filled;
    }

    /// <summary>Makes the next line, or a step towards it; false at the end.</summary>
    private bool MakeStep()
    {
        if (_isAtEnd || _isClosed)
            return false;
        _lines ??= lines(_pace).GetEnumerator();
        try
        {
            if (!_lines.MoveNext())
            {
                _isAtEnd = true;
                return false;
            }
        }
        catch
        {
            // A maker that has failed makes nothing more: the next reader tries again from the beginning.
            StartAgain();
            throw;
        }

        if (_lines.Current is { } line)
            Take(line);
        return true;
    }

    private void Take(string line)
    {
        int most = Encoding.UTF8.GetMaxByteCount(line.Length) + 1;
        if (_line.Length < most)
            _line = new byte[most];
        _lineLength = Encoding.UTF8.GetBytes(line, _line);
        _line[_lineLength++] = (byte)'\n';
        _taken = 0;
    }

    private void StartAgain()
    {
        _lines?.Dispose();
        _lines = null;
        _line = [];
        _lineLength = 0;
        _taken = 0;
        _position = 0;
        _isAtEnd = false;
    }
}
