// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>
/// How much memory the texts of a mount have that are being read. Where more are, those that were read longest ago give
/// theirs back, and are made anew up to their place when somebody reads on in them.
/// </summary>
internal sealed class TextRoom
{
    private readonly Lock _lock = new();
    private readonly LinkedList<TextCursor> _inUse = new();
    private long _bytes;

    /// <summary>Bytes for all of them; those that are read at this moment have theirs besides.</summary>
    public long BytesMax { get; init; } = 8 << 20;

    /// <summary>Texts that have memory now.</summary>
    public int Count
    {
        get
        {
            lock (_lock)
                return _inUse.Count;
        }
    }

    /// <summary>To be called by whoever has read in a text, with its lock held.</summary>
    public void NoteRead(TextCursor cursor)
    {
        lock (_lock)
        {
            Remove(cursor);
            if (cursor.Bytes == 0)
                return;
            cursor.CountedBytes = cursor.Bytes;
            _bytes += cursor.CountedBytes;
            cursor.Place = _inUse.AddLast(cursor);
            LinkedListNode<TextCursor>? oldest = _inUse.First;
            while (_bytes > BytesMax && oldest is not null && !ReferenceEquals(oldest.Value, cursor))
            {
                LinkedListNode<TextCursor>? next = oldest.Next;
                if (oldest.Value.TryRest())
                    Remove(oldest.Value);
                oldest = next;
            }
        }
    }

    /// <summary>A text has nothing in memory any more.</summary>
    public void Leave(TextCursor cursor)
    {
        lock (_lock)
            Remove(cursor);
    }

    private void Remove(TextCursor cursor)
    {
        if (cursor.Place is not { } place)
            return;
        _inUse.Remove(place);
        _bytes -= cursor.CountedBytes;
        cursor.Place = null;
    }
}
