// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Testing.Faults;

/// <summary>A request that passed an <see cref="OrderRecorder"/>.</summary>
/// <param name="Op">Its kind.</param>
/// <param name="Offset">Its first byte; the new length of a resize; 0 for a flush.</param>
/// <param name="Length">Its length in bytes; 0 for a resize or flush.</param>
public readonly record struct RecordedRequest(BlockOp Op, long Offset, long Length)
{
    /// <summary>The first byte after it.</summary>
    public long End => Offset + Length;

    /// <summary>Whether it touches a byte of the range.</summary>
    public bool Overlaps(long offset, long length) => Offset < offset + length && offset < End;

    /// <inheritdoc/>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"{Op} 0x{Offset:x}+0x{Length:x}");
}

/// <summary>Lists all requests but reads, in the order in which they were issued.</summary>
public sealed class OrderRecorder(BlockDevice child) : PassThroughDevice(child)
{
    private readonly List<RecordedRequest> _requests = [];
    private readonly Lock _lock = new();

    /// <summary>The requests since the last <see cref="Clear"/>.</summary>
    public IReadOnlyList<RecordedRequest> Requests
    {
        get
        {
            lock (_lock)
                return _requests.ToArray();
        }
    }

    /// <summary>How many flushes there were.</summary>
    public int FlushCount => Requests.Count(request => request.Op == BlockOp.Flush);

    /// <summary>Forgets all requests.</summary>
    public void Clear()
    {
        lock (_lock)
            _requests.Clear();
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        Add(BlockOp.Write, offset, source.Length);
        Child.Write(offset, source);
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        Add(BlockOp.WriteZeroes, offset, length);
        Child.WriteZeroes(offset, length, mayUnmap);
    }

    /// <inheritdoc/>
    public override void Discard(long offset, long length)
    {
        Add(BlockOp.Discard, offset, length);
        Child.Discard(offset, length);
    }

    /// <inheritdoc/>
    public override void Resize(long length)
    {
        Add(BlockOp.Resize, length, 0);
        Child.Resize(length);
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        Add(BlockOp.Flush, 0, 0);
        Child.Flush();
    }

    private void Add(BlockOp op, long offset, long length)
    {
        lock (_lock)
            _requests.Add(new RecordedRequest(op, offset, length));
    }
}
