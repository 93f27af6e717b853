// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Access;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Compression;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Gathering;

/// <summary>
/// Gathers writes of any size and order into whole clusters, as only whole clusters can be compressed. A cluster is
/// stored when the guest has written all of it, by a thread of its own, when it is flushed, and when room is needed for
/// another one; what the guest has not written of it is then completed from what the image holds.
/// </summary>
/// <remarks>
/// <para>
/// Who reads looks at the slots first and then asks the image for what they do not hold: a slot is given up only after
/// the image has its content.
/// </para>
/// <para>
/// Where storing fails, the slot is open again: nothing is lost, and the next flush tries again or fails too. The lock
/// of the slots is never held while the image is asked for anything.
/// </para>
/// </remarks>
internal sealed class CompressedTarget : IGathered, IDisposable
{
    private readonly Qcow2Geometry _geometry;
    private readonly DiskSize _size;
    private readonly GatheredSlots _slots;
    private readonly StoredClusters _stored;
    private readonly ClusterPackers _packers;
    private readonly GuestReader _reader;
    private readonly GuestZeroes _zeroes;
    private readonly BitmapLife _bitmaps;
    private readonly CommitTimer _commit;

    /// <param name="image">The image.</param>
    /// <param name="slots">Where clusters are gathered; disposed with this.</param>
    /// <param name="stored">Stores them.</param>
    /// <param name="reader">Reads what the image holds.</param>
    /// <param name="zeroes">Discards what the image holds.</param>
    /// <param name="bitmaps">Record what is written.</param>
    /// <param name="commit">Is told of what is gathered.</param>
    /// <param name="packers">Threads that store what is finished, at most; null for as many as there are processors, at
    /// most 8.</param>
    public CompressedTarget(
        ImageCore image, GatheredSlots slots, StoredClusters stored, GuestReader reader, GuestZeroes zeroes,
        BitmapLife bitmaps, CommitTimer commit, int? packers)
    {
        _geometry = image.Geometry;
        _size = image.Size;
        _slots = slots;
        _stored = stored;
        _packers = new ClusterPackers(image.Name, slots, stored, packers);
        _reader = reader;
        _zeroes = zeroes;
        _bitmaps = bitmaps;
        _commit = commit;
    }

    /// <summary>Takes a write; it is seen by reads when this returns.</summary>
    public void Write(long offset, ReadOnlySpan<byte> source)
    {
        _bitmaps.Record(offset, source.Length);
        Gather(offset, source);
        _commit.NoteGathered();
    }

    /// <summary>Reads what is gathered and, around it, what the image holds.</summary>
    public void Read(long offset, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            int step = destination.Length;
            if (!_slots.HoldsAny || !TryReadSlot(offset, destination, out step))
                _reader.ReadStored(new GuestOffset(offset), destination[..step]);
            offset += step;
            destination = destination[step..];
        }
    }

    /// <summary>Zeroes a range: whole clusters by the tables, the edges like any other write.</summary>
    public void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        long end = offset + length;
        long wholeStart = _geometry.RoundUpToCluster(offset);
        long wholeEnd = EndOfWholeClusters(end);
        if (wholeStart >= wholeEnd)
        {
            GatherZeroes(offset, length);
            return;
        }

        GatherZeroes(offset, wholeStart - offset);
        SlotClaim claim = _slots.Claim(wholeStart, wholeEnd);
        try
        {
            for (long at = wholeStart; at < wholeEnd;)
            {
                long step = _stored.Zero(at, wholeEnd, mayUnmap);
                _slots.SettleIn(claim, at, at + step, done: true);
                at += step;
            }
        }
        finally
        {
            _slots.End(claim);
        }

        GatherZeroes(wholeEnd, Math.Max(0, end - wholeEnd));
    }

    /// <summary>Discards the whole clusters of a range; the rest of it is left as it is.</summary>
    public void Discard(long offset, long length)
    {
        long wholeStart = _geometry.RoundUpToCluster(offset);
        long wholeEnd = EndOfWholeClusters(offset + length);
        if (wholeStart >= wholeEnd)
            return;
        SlotClaim claim = _slots.Claim(wholeStart, wholeEnd);
        try
        {
            for (long at = wholeStart; at < wholeEnd;)
            {
                // Where the tables cannot drop a cluster, what is gathered for it stays as well.
                long step = _zeroes.DiscardStored(at, wholeEnd, out bool dropped);
                _slots.SettleIn(claim, at, at + step, dropped);
                at += step;
            }
        }
        finally
        {
            _slots.End(claim);
        }
    }

    /// <inheritdoc/>
    /// <remarks>When it returns or throws, packers are done with all that was gathered before the call.</remarks>
    public void StoreAll()
    {
        long last = _slots.Now(out bool isMany);
        try
        {
            // All at once first. What a packer could not store is tried again here, so that the caller learns why.
            foreach (GatheredSlot slot in _slots.All)
            {
                if (isMany && _slots.Seize(slot, last, waits: false))
                    HandOver(slot, isAwaited: true);
            }

            foreach (GatheredSlot slot in _slots.All)
            {
                if (_slots.Seize(slot, last, waits: true))
                    Store(slot);
            }
        }
        catch
        {
            // Where one fails, others fail: none of them after the caller was told.
            _packers.Wait();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Pause()
    {
        _slots.Pause();
        try
        {
            StoreAll();
        }
        catch
        {
            Resume();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Resume() => _slots.Resume();

    /// <inheritdoc/>
    public BlockException? TakeFailure() => _packers.TakeFailure();

    /// <summary>
    /// Has the packers store all they were given, and ends them; whatever is stored later is stored by its caller.
    /// </summary>
    public void EndPackers() => _packers.End();

    /// <summary>Ends the packers and releases the memory; what is not stored is lost.</summary>
    public void Dispose()
    {
        EndPackers();
        _slots.Dispose();
    }

    /// <summary>Nothing lies behind the end of the disk, so its last cluster counts as whole.</summary>
    private long EndOfWholeClusters(long end) =>
        end == _size.Length ? _geometry.RoundUpToCluster(end) : end & ~_geometry.ClusterMask;

    private void Gather(long offset, ReadOnlySpan<byte> source)
    {
        while (!source.IsEmpty)
        {
            int within = (int)(offset & _geometry.ClusterMask);
            int step = Math.Min(source.Length, _geometry.ClusterSize - within);
            GatheredSlot? busy;
            while (!_slots.TryPut(offset - within, within, source[..step], out busy))
                Store(busy!);
            if (busy is not null)
                HandOver(busy, isAwaited: false);
            offset += step;
            source = source[step..];
        }
    }

    private void GatherZeroes(long offset, long length)
    {
        while (length > 0)
        {
            int step = (int)Math.Min(length, _geometry.ClusterSize - (offset & _geometry.ClusterMask));
            GuestOffset guest = new(offset);
            if (!_reader.ReadsAsZero(guest, step) || !_reader.IsZeroSaid(guest, step))
            {
                using PooledBuffer zeroes = BufferPool.Shared.Rent(step);
                zeroes.Span.Clear();
                Gather(offset, zeroes.Span);
            }

            offset += step;
            length -= step;
        }
    }

    /// <summary>Reads the first step of a range, where that lies in a slot.</summary>
    /// <param name="offset">Where the range begins.</param>
    /// <param name="destination">As long as the range.</param>
    /// <param name="step">Bytes of the step.</param>
    /// <returns>False where the image has to answer for the step.</returns>
    private bool TryReadSlot(long offset, Span<byte> destination, out int step)
    {
        Span<(int Start, int End)> missing = stackalloc (int, int)[ByteRanges.Capacity + 1];
        bool isGathered = _slots.TryCopyFirst(offset, destination, missing, out int gaps, out step);
        foreach ((int start, int end) in missing[..gaps])
            _reader.ReadStored(new GuestOffset(offset + start), destination[start..end]);
        return isGathered;
    }

    /// <summary>Stores a busy slot: a packer does it, once there is room in the queue, or else the caller.</summary>
    /// <param name="slot">The slot.</param>
    /// <param name="isAwaited">The caller finds out itself whether it was stored; its failure need not be kept.</param>
    private void HandOver(GatheredSlot slot, bool isAwaited)
    {
        if (!_packers.TryHandOver(slot, isAwaited))
            Store(slot);
    }

    /// <summary>Stores a busy slot and frees it; on a failure it is open again.</summary>
    private void Store(GatheredSlot slot)
    {
        bool isStored = false;
        try
        {
            _stored.Complete(slot);
            _stored.Store(new GuestOffset(slot.Guest), slot.Content);
            isStored = true;
        }
        finally
        {
            lock (_slots.Lock)
                _slots.Finish(slot, isStored);
        }

        _stored.WriteFinished();
    }
}
