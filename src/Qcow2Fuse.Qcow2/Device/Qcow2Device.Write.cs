// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>Writing, zeroing, discarding and flushing.</summary>
public sealed partial class Qcow2Device
{
    /// <summary>
    /// Freed clusters that wait for a flush are flushed from this many bytes on, so that a guest that discards and
    /// rewrites without ever flushing does not let the file grow without end.
    /// </summary>
    private const long PendingBytesMax = 256L << 20;

    private readonly Lock _corruptLock = new();
    private volatile bool _mayWrite;
    private volatile bool _foundCorrupt;

    // A flush has failed after which nothing is written any more: closing has nothing to add.
    private volatile bool _isLossTold;

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        BeginWrite(offset, source.Length);
        try
        {
            if (_target is null)
                WriteGuest(new GuestOffset(offset), source);
            else
                WriteGathered(offset, source);
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            MarkCorrupt();
            throw;
        }
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        if (IsReadOnly)
            return;

        // The guest is told by this flush of one that nobody has waited for, also if all is durable by now.
        BlockException? earlier = TakeCommitFailure();
        FlushOwn();
        if (earlier is not null)
            throw earlier;
    }

    /// <summary>Makes all durable where it is not the guest who is told of a failure.</summary>
    private void FlushOwn()
    {
        try
        {
            FlushAll();
        }
        catch (BlockException e)
        {
            if (e.IsSpreading)
                MarkCorrupt();
            _isLossTold |= _caches.HasFailed;
            throw;
        }
    }

    private void FlushAll()
    {
        // The guest is told by this flush of what failed before, also if it is stored by now. One failure stands for
        // all, or the next flush would fail for what this one has told of or stored.
        BlockException? failure = _target?.TakeFailure();
        try
        {
            StoreGathered();
            using (_gate.Enter())
            {
                _caches.Flush();
                _map.PunchKept();
            }
        }
        finally
        {
            BlockException? later = _target?.TakeFailure();
            failure ??= later;
        }

        if (failure is not null)
            throw failure;
    }

    /// <inheritdoc/>
    /// <remarks>Whole subclusters are zeroed by metadata, the edges by writing zeroes where they hold data.</remarks>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        BeginWrite(offset, length);
        RecordChange(offset, length);
        try
        {
            mayUnmap &= _discard != DiscardMode.Ignore;
            if (_target is null)
                ZeroGuest(offset, length, mayUnmap);
            else
                _target.WriteZeroes(offset, length, mayUnmap);
            FlushManyPending();
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            MarkCorrupt();
            throw;
        }
    }

    /// <inheritdoc/>
    /// <remarks>
    /// Whole subclusters become zeroes, never holes through which a backing file shows; the rest of the range is left
    /// as it is.
    /// </remarks>
    public override void Discard(long offset, long length)
    {
        BeginWrite(offset, length);
        if (_discard == DiscardMode.Ignore)
            return;
        RecordChange(offset, length);
        try
        {
            if (_geometry.DataIsExternal)
                ZeroExternal(offset, length, mayUnmap: true);
            else if (_target is not null)
                _target.Discard(offset, length);
            else
                DiscardGuest(offset, EndOfWholeSubclusters(offset + length));
            FlushManyPending();
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            MarkCorrupt();
            throw;
        }
    }

    private void WriteGathered(long offset, ReadOnlySpan<byte> source)
    {
        RecordChange(offset, source.Length);
        _target!.Write(offset, source);
        NoteGathered();
    }

    private void DiscardGuest(long offset, long end)
    {
        for (long at = _geometry.RoundUpToSubcluster(offset); at < end;)
            at += DiscardStored(at, end, out _);
    }

    /// <summary>
    /// Discards whole subclusters from <paramref name="at"/> on, at most up to <paramref name="end"/>; returns how many
    /// bytes, and whether they are dropped or stayed as they were.
    /// </summary>
    internal long DiscardStored(long at, long end, out bool dropped)
    {
        for (bool reclaimed = false; ; reclaimed = true)
        {
            try
            {
                using (_gate.Enter())
                    return ZeroRecorded(at, end - at, mayUnmap: true, out dropped);
            }
            catch (BlockException e) when (e.Kind == BlockErrorKind.NoSpace && !reclaimed && HasPendingFrees())
            {
                Reclaim();
            }
        }
    }

    private void WriteGuest(GuestOffset guest, ReadOnlySpan<byte> source)
    {
        bool isScarce = false;
        while (!source.IsEmpty)
        {
            // Free clusters that do not lie in a row are still found one by one.
            int most = isScarce ? _geometry.ClusterSize - (int)_geometry.InCluster(guest) : source.Length;
            try
            {
                int written = WritePart(guest, source[..Math.Min(most, source.Length)]);
                guest += written;
                source = source[written..];
                isScarce = false;
            }
            catch (BlockException e) when (e.Kind == BlockErrorKind.NoSpace && !isScarce)
            {
                isScarce = true;
                Reclaim();
            }
        }
    }

    /// <summary>Frees what a flush can free.</summary>
    private void Reclaim()
    {
        using (_gate.Enter())
        {
            if (_caches.Frees.Any)
                _caches.FlushAndFree();
        }
    }

    /// <summary>Writes as much as one mapping covers; returns how much that was.</summary>
    private int WritePart(GuestOffset guest, ReadOnlySpan<byte> source)
    {
        WriteMapping mapping;
        using (_gate.Enter())
        {
            _caches.ThrowIfFailed();
            mapping = _map.Allocate(guest, source.Length);

            // After the place is known and before the data is there: a write that is held back has either been
            // recorded or not begun.
            MarkChange(guest.Value, mapping.Length);
        }

        ReadOnlySpan<byte> part = source[..mapping.Length];
        if (mapping.Allocation is null)
        {
            try
            {
                _guestData.Write(guest, mapping.Host, head: [], part, tail: []);
            }
            finally
            {
                _caches.Epochs.Exit(mapping.Epoch);
            }
        }
        else
        {
            WriteAllocation(mapping.Allocation, part);
        }

        return part.Length;
    }

    private void WriteAllocation(ClusterAllocation allocation, ReadOnlySpan<byte> request)
    {
        bool linked = false;
        try
        {
            _cow.Write(allocation, request);
            using (_gate.Enter())
            {
                _map.Link(allocation);
                NoteChange();
            }

            linked = true;
        }
        finally
        {
            if (!linked)
            {
                using (_gate.Enter())
                    _map.Abort(allocation);
            }
        }
    }

    private void ZeroGuest(long offset, long length, bool mayUnmap)
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
                _caches.ThrowIfFailed();
                step = ZeroRecorded(at, wholeEnd - at, mayUnmap, out handled);
            }

            if (!handled)
                ZeroByWriting(at, Math.Min(step, Reach - at));
            at += step;
        }

        ZeroByWriting(wholeEnd, Math.Max(0, end - wholeEnd));
    }

    private void ZeroByWriting(long offset, long length)
    {
        const int StepMax = 1 << 20;
        while (length > 0)
        {
            int step = (int)Math.Min(length, StepMax);
            if (!ReadsAsZero(new GuestOffset(offset), step))
                WriteZeroBytes(offset, step);
            else if (Backing is not null)
                SayZero(offset, step);
            offset += step;
            length -= step;
        }
    }

    private void WriteZeroBytes(long offset, int length)
    {
        using PooledBuffer zeroes = BufferPool.Shared.Rent(length);
        zeroes.Span.Clear();
        WriteGuest(new GuestOffset(offset), zeroes.Span);
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
            if (!IsZeroSaid(guest, next - offset) && IsSaid(offset) && !TrySayZero(guest, start))
                WriteZeroBytes(offset, (int)(next - offset));
            offset = next;
        }
    }

    private bool TrySayZero(GuestOffset guest, long start)
    {
        if (!ReadsAsZero(new GuestOffset(start), _geometry.SubclusterSize))
            return false;
        using (_gate.Enter())
        {
            _caches.ThrowIfFailed();
            try
            {
                return _map.TrySayZero(guest);
            }
            finally
            {
                MarkChange(start, _geometry.SubclusterSize);
                NoteChange();
            }
        }
    }

    /// <summary>
    /// Whether a range that reads as zeroes, within a cluster, does so whatever becomes of the backing file.
    /// </summary>
    internal bool IsZeroSaid(GuestOffset guest, long length)
    {
        if (Backing is null)
            return true;
        using (_gate.Enter())
        {
            for (GuestOffset at = guest; at - guest < length;)
            {
                ReadMapping mapping = _map.Lookup(at, length - (at - guest));
                if (mapping.Kind == MappingKind.Unallocated)
                    return false;
                at += mapping.Length;
            }

            return true;
        }
    }

    /// <summary>
    /// Whether zeroes at an offset are the guest's, and not those of the space that a disk grows by, of which nobody
    /// has asked that they stay zero whatever becomes of the backing file.
    /// </summary>
    private bool IsSaid(long offset) => offset < Length;

    /// <summary>
    /// Nothing lies behind the end of the disk, so the last subcluster counts as whole when it is reached.
    /// </summary>
    private long EndOfWholeSubclusters(long end) =>
        end == Reach ? _geometry.RoundUpToSubcluster(end) : _geometry.RoundDownToSubcluster(end);

    private bool HasPendingFrees()
    {
        using (_gate.Enter())
            return _caches.Frees.Any;
    }

    private void FlushManyPending()
    {
        using (_gate.Enter())
        {
            if (_caches.Frees.PendingClusters << _geometry.ClusterBits > PendingBytesMax)
                _caches.Flush();
        }
    }

    /// <summary>Checks that the range can be written, and prepares the image for its first write.</summary>
    private void BeginWrite(long offset, long length)
    {
        CheckWritable();
        CheckRange(offset, length);
        if (_foundCorrupt)
            throw new BlockException(
                BlockErrorKind.Io, $"{Name}: the image was found corrupt and is not written any more");
        if (_mayWrite && _caches.HasGuard)
            return;
        PrepareFirstWrite();
        _mayWrite = true;
    }

    /// <summary>
    /// Sets the corrupt bit once and refuses writes from now on. What was accepted before is still flushed.
    /// </summary>
    private void MarkCorrupt()
    {
        lock (_corruptLock)
        {
            if (_foundCorrupt || IsReadOnly)
                return;
            _foundCorrupt = true;
            if (_geometry.Version < 3)
                return;
            _header.Update(static header => header with { Incompatible = header.Incompatible | FeatureBits.Corrupt });
            _file.Flush();
        }
    }

    /// <summary>A clean close leaves nothing behind: all durable, nothing leaked.</summary>
    private void CloseMetadata()
    {
        try
        {
            _target?.StoreAll();
        }
        finally
        {
            CloseTables();
        }
    }

    private void CloseTables()
    {
        using (_gate.Enter())
        {
            try
            {
                StoreBitmapsAtClose();
            }
            finally
            {
                if (!_caches.HasFailed)
                {
                    _caches.FlushForClose();
                    _map.PunchKept();
                }
            }

            if (!_setDirty)
                return;
            _header.Update(static header => header with { Incompatible = header.Incompatible & ~FeatureBits.Dirty });
            _caches.Barrier();
        }
    }
}
