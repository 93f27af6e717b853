// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Access;

/// <summary>
/// Zeroes and discards: whole subclusters by metadata, the edges of a range by writing zeroes where they hold data.
/// </summary>
internal sealed class GuestZeroes
{
    private readonly ImageCore _image;
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly DiskSize _size;
    private readonly DurableFile _durable;
    private readonly ZeroedClusters _clusters;
    private readonly GuestReader _reader;
    private readonly GuestWriter _writer;
    private readonly ExternalData _external;
    private readonly BitmapLife _bitmaps;
    private readonly CommitTimer _commit;
    private readonly FreedSpace _freed;

    public GuestZeroes(
        ImageCore image, DurableFile durable, ZeroedClusters clusters, GuestReader reader, GuestWriter writer,
        ExternalData external, BitmapLife bitmaps, CommitTimer commit, FreedSpace freed)
    {
        _image = image;
        _geometry = image.Geometry;
        _gate = image.Gate;
        _size = image.Size;
        _durable = durable;
        _clusters = clusters;
        _reader = reader;
        _writer = writer;
        _external = external;
        _bitmaps = bitmaps;
        _commit = commit;
        _freed = freed;
    }

    /// <summary>Makes a range read as zeroes, also in the space that the disk grows by.</summary>
    public void Zero(long offset, long length, bool mayUnmap)
    {
        if (_geometry.DataIsExternal)
        {
            ZeroExternal(offset, length, mayUnmap);
            return;
        }

        long end = offset + length;
        long wholeStart = _geometry.RoundUpToSubcluster(offset);
        long wholeEnd = EndOfWholeSubclusters(end);
        if (wholeStart >= wholeEnd)
        {
            ZeroByWriting(offset, length);
            return;
        }

        ZeroByWriting(offset, wholeStart - offset);
        for (long at = wholeStart; at < wholeEnd;)
        {
            bool handled;
            long step;
            using (_gate.Enter())
            {
                _durable.ThrowIfFailed();
                step = ZeroRecorded(at, wholeEnd - at, mayUnmap, out handled);
            }

            if (!handled)
                ZeroByWriting(at, Math.Min(step, _size.Reach - at));
            at += step;
        }

        ZeroByWriting(wholeEnd, Math.Max(0, end - wholeEnd));
    }

    /// <summary>
    /// Makes the whole subclusters of a range zeroes, never holes through which a backing file shows; the rest of the
    /// range is left as it is. In an external data file all of it becomes zeroes.
    /// </summary>
    public void Discard(long offset, long length)
    {
        if (_geometry.DataIsExternal)
        {
            ZeroExternal(offset, length, mayUnmap: true);
            return;
        }

        long end = EndOfWholeSubclusters(offset + length);
        for (long at = _geometry.RoundUpToSubcluster(offset); at < end;)
            at += DiscardStored(at, end, out _);
    }

    /// <summary>
    /// Discards whole subclusters from <paramref name="at"/> on, at most up to <paramref name="end"/>; returns how many
    /// bytes, and whether they are dropped or stayed as they were.
    /// </summary>
    public long DiscardStored(long at, long end, out bool dropped)
    {
        for (bool reclaimed = false; ; reclaimed = true)
        {
            try
            {
                using (_gate.Enter())
                    return ZeroRecorded(at, end - at, mayUnmap: true, out dropped);
            }
            catch (BlockException e) when (e.Kind == BlockErrorKind.NoSpace && !reclaimed && _freed.IsPending)
            {
                _freed.Reclaim();
            }
        }
    }

    /// <summary>
    /// Zeroes by metadata and records it while the gate is held, also where it fails half-way. As
    /// <see cref="ZeroedClusters.Zero"/> otherwise.
    /// </summary>
    public long ZeroRecorded(long offset, long length, bool mayUnmap, out bool handled)
    {
        _gate.AssertHeld();
        long step = length;
        try
        {
            step = _clusters.Zero(new GuestOffset(offset), length, mayUnmap, IsSaid(offset), out handled);
        }
        finally
        {
            _bitmaps.MarkChange(offset, step);
            _commit.NoteChange();
        }

        return step;
    }

    /// <summary>
    /// Zeroes a range of an image with an external data file, in place as far as that goes. Only what a backing file
    /// shows through, or could if it grew, becomes zero by metadata.
    /// </summary>
    private void ZeroExternal(long offset, long length, bool mayUnmap)
    {
        long end = offset + length;
        for (long at = offset; at < end;)
        {
            long step = _external.ZeroInPlace(at, end - at, mayUnmap, out bool isUnallocated);
            if (isUnallocated && IsZeroToBeSaid(at))
                ZeroUnallocated(at, step);
            at += step;
        }
    }

    /// <summary>Whole subclusters by metadata, the edges by writing.</summary>
    private void ZeroUnallocated(long offset, long length)
    {
        long end = offset + length;
        long wholeStart = _geometry.RoundUpToSubcluster(offset);
        long wholeEnd = EndOfWholeSubclusters(end);
        if (wholeStart >= wholeEnd)
        {
            ZeroByWriting(offset, length);
            return;
        }

        ZeroByWriting(offset, wholeStart - offset);
        for (long at = wholeStart; at < wholeEnd;)
        {
            using (_gate.Enter())
            {
                at += _clusters.Zero(new GuestOffset(at), wholeEnd - at, mayUnmap: false, IsSaid(at), out _);
                _commit.NoteChange();
            }
        }

        ZeroByWriting(wholeEnd, Math.Max(0, end - wholeEnd));
    }

    private void ZeroByWriting(long offset, long length)
    {
        const int StepMax = 1 << 20;
        while (length > 0)
        {
            int step = (int)Math.Min(length, StepMax);
            if (!_reader.ReadsAsZero(new GuestOffset(offset), step))
                WriteZeroBytes(offset, step);
            else if (_image.Backing is not null)
                SayZero(offset, step);
            offset += step;
            length -= step;
        }
    }

    private void WriteZeroBytes(long offset, int length)
    {
        using PooledBuffer zeroes = BufferPool.Shared.Rent(length);
        zeroes.Span.Clear();
        _writer.Write(new GuestOffset(offset), zeroes.Span);
    }

    /// <summary>
    /// Records zeroes where the disk shows them already: by the entry of a subcluster that shows nothing else, or by
    /// writing them.
    /// </summary>
    private void SayZero(long offset, long length)
    {
        long end = offset + length;
        while (offset < end)
        {
            GuestOffset guest = new(offset);
            long start = _geometry.RoundDownToSubcluster(offset);
            long next = Math.Min(start + _geometry.SubclusterSize, end);
            if (!_reader.IsZeroSaid(guest, next - offset) && IsSaid(offset) && !TrySayZero(guest, start))
                WriteZeroBytes(offset, (int)(next - offset));
            offset = next;
        }
    }

    private bool TrySayZero(GuestOffset guest, long start)
    {
        if (!_reader.ReadsAsZero(new GuestOffset(start), _geometry.SubclusterSize))
            return false;
        using (_gate.Enter())
        {
            _durable.ThrowIfFailed();
            try
            {
                return _clusters.TrySayZero(guest);
            }
            finally
            {
                _bitmaps.MarkChange(start, _geometry.SubclusterSize);
                _commit.NoteChange();
            }
        }
    }

    /// <summary>
    /// Whether zeroes at an offset are the guest's, and not those of the space that a disk grows by, of which nobody
    /// has asked that they stay zero whatever becomes of the backing file.
    /// </summary>
    private bool IsSaid(long offset) => offset < _size.Length;

    /// <summary>Whether a cluster that is not mapped shows, or could show one day, what a backing file holds.</summary>
    private bool IsZeroToBeSaid(long offset) =>
        _image.Backing is { } backing && (IsSaid(offset) || offset < backing.Length);

    /// <summary>
    /// Nothing lies behind the end of the disk, so the last subcluster counts as whole when it is reached.
    /// </summary>
    private long EndOfWholeSubclusters(long end) =>
        end == _size.Reach ? _geometry.RoundUpToSubcluster(end) : _geometry.RoundDownToSubcluster(end);
}
