// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Compression;

/// <summary>
/// Gathers writes of any size and order into whole clusters, as only whole clusters can be compressed. A cluster is
/// stored when the guest has written all of it, by a thread of its own, when it is flushed, and when room is needed for
/// another one; what the guest has not written of it is then completed from what the image holds.
/// </summary>
/// <remarks>
/// <para>
/// A cluster under way lies in a <see cref="Slot"/>: open to more writes, or being stored, when readers still see it
/// and writers to it wait. A thread that zeroes or discards claims the range: writers to it wait, and the slots in it
/// are dropped once it has succeeded. So at most one thread at a time changes a cluster of the image.
/// </para>
/// <para>
/// Who reads looks at the slots first and then asks the image for what they do not hold: a slot is given up only after
/// the image has its content.
/// </para>
/// <para>
/// Where storing fails, the slot is open again: nothing is lost, and the next flush tries again or fails too. The lock
/// of this class is never held while the image is asked for anything.
/// </para>
/// </remarks>
internal sealed unsafe partial class CompressedTarget : IDisposable
{
    private const int SlotBytes = 8 << 20;
    private const int SlotsMin = 24;
    private const int SlotsMax = 64;

    private readonly Qcow2Device _image;
    private readonly Qcow2Geometry _geometry;
    private readonly object _lock = new();
    private readonly Slot[] _slots;
    private readonly List<Claim> _claims = new(8);
    private readonly byte* _arena;
    private long _clock;
    private int _used;
    private bool _isPaused;

    /// <summary>
    /// Gathers for <paramref name="image"/>, with up to <paramref name="packers"/> threads that store what is finished;
    /// null for as many as there are processors, at most 8.
    /// </summary>
    public CompressedTarget(Qcow2Device image, Qcow2Geometry geometry, int? packers)
    {
        _packersWanted = PackersFor(packers);
        _queue = NewQueue(_packersWanted);
        _image = image;
        _geometry = geometry;
        _slots = new Slot[Math.Clamp(SlotBytes >> geometry.ClusterBits, SlotsMin, SlotsMax)];

        // The system gives memory to pages only once they are touched.
        _arena = (byte*)NativeMemory.AlignedAlloc((nuint)_slots.Length << geometry.ClusterBits, 4096);
        for (int i = 0; i < _slots.Length; i++)
            _slots[i] = new Slot(_arena + ((long)i << geometry.ClusterBits), geometry.ClusterSize);
    }

    /// <summary>Whether anything is gathered that is not stored.</summary>
    public bool HoldsAny => Volatile.Read(ref _used) > 0;

    private enum SlotState
    {
        Free,
        Open,
        Busy,
    }

    /// <summary>Takes a write; it is seen by reads when this returns.</summary>
    public void Write(long offset, ReadOnlySpan<byte> source)
    {
        while (!source.IsEmpty)
        {
            int within = (int)(offset & _geometry.ClusterMask);
            int step = Math.Min(source.Length, _geometry.ClusterSize - within);
            if (Gather(offset - within, within, source[..step]) is { } full)
                HandOver(full, isAwaited: false);
            offset += step;
            source = source[step..];
        }
    }

    /// <summary>Reads what is gathered and, around it, what the image holds.</summary>
    public void Read(long offset, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            int step = Volatile.Read(ref _used) == 0 ? destination.Length : ReadOneSlot(offset, destination);
            if (step > 0)
                _image.ReadStored(new GuestOffset(offset), destination[..step]);
            step = Math.Abs(step);
            offset += step;
            destination = destination[step..];
        }
    }

    /// <summary>
    /// Describes a run that is gathered; where there is none, shortens <paramref name="length"/> so that it ends before
    /// the next one.
    /// </summary>
    public bool TryGetExtent(long offset, ref long length, out Extent extent)
    {
        extent = default;
        if (Volatile.Read(ref _used) == 0)
            return false;
        lock (_lock)
        {
            Slot? slot = FirstIn(offset, offset + length);
            if (slot is null)
                return false;
            if (slot.Guest > offset)
            {
                length = slot.Guest - offset;
                return false;
            }

            length = Math.Min(length, slot.Guest + _geometry.ClusterSize - offset);
            extent = new Extent(offset, length, ExtentKind.Compressed, HostOffset: -1, Depth: 0);
            return true;
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
        Claim claim = Take(wholeStart, wholeEnd);
        try
        {
            for (long at = wholeStart; at < wholeEnd;)
            {
                long step = _image.ZeroStored(at, wholeEnd, mayUnmap);
                SettleIn(claim, at, at + step, done: true);
                at += step;
            }
        }
        finally
        {
            End(claim);
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
        Claim claim = Take(wholeStart, wholeEnd);
        try
        {
            for (long at = wholeStart; at < wholeEnd;)
            {
                // Where the tables cannot drop a cluster, what is gathered for it stays as well.
                long step = _image.DiscardStored(at, wholeEnd, out bool dropped);
                SettleIn(claim, at, at + step, dropped);
                at += step;
            }
        }
        finally
        {
            End(claim);
        }
    }

    /// <summary>
    /// Stores all that was gathered before the call. When it returns or throws, packers are done with all of that, and
    /// <see cref="TakeFailure"/> knows of it.
    /// </summary>
    /// <exception cref="BlockException">Something could not be stored; it is still gathered.</exception>
    public void StoreAll()
    {
        long last;
        bool isMany;
        lock (_lock)
        {
            last = _clock;
            isMany = _used > 1;
        }

        try
        {
            // All at once first. What a packer could not store is tried again here, so that the caller learns why.
            foreach (Slot slot in _slots)
            {
                if (isMany && Seize(slot, last, waits: false))
                    HandOver(slot, isAwaited: true);
            }

            foreach (Slot slot in _slots)
            {
                if (Seize(slot, last, waits: true))
                    Store(slot);
            }
        }
        catch
        {
            // Where one fails, others fail: none of them after the caller was told.
            WaitForPackers();
            throw;
        }
    }

    /// <summary>
    /// Stores all that was gathered, and lets nothing be gathered, zeroed or discarded before <see cref="Resume"/>:
    /// what the image is then is what the guest has written up to one moment.
    /// </summary>
    public void Pause()
    {
        lock (_lock)
        {
            while (_isPaused)
                Monitor.Wait(_lock);
            _isPaused = true;
        }

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

    /// <summary>Ends what <see cref="Pause"/> began.</summary>
    public void Resume()
    {
        lock (_lock)
        {
            _isPaused = false;
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>Ends the packers and releases the memory; what is not stored is lost.</summary>
    public void Dispose()
    {
        EndPackers();
        NativeMemory.AlignedFree(_arena);
    }

    /// <summary>Nothing lies behind the end of the disk, so its last cluster counts as whole.</summary>
    private long EndOfWholeClusters(long end) =>
        end == _image.Length ? _geometry.RoundUpToCluster(end) : end & ~_geometry.ClusterMask;

    private void GatherZeroes(long offset, long length)
    {
        while (length > 0)
        {
            int step = (int)Math.Min(length, _geometry.ClusterSize - (offset & _geometry.ClusterMask));
            GuestOffset guest = new(offset);
            if (!_image.ReadsAsZero(guest, step) || !_image.IsZeroSaid(guest, step))
            {
                using PooledBuffer zeroes = BufferPool.Shared.Rent(step);
                zeroes.Span.Clear();
                Write(offset, zeroes.Span);
            }

            offset += step;
            length -= step;
        }
    }

    /// <summary>
    /// Reads up to the end of the first slot in the range, or up to its start.
    /// </summary>
    /// <returns>Minus the bytes that were read, or the bytes that the image has to answer for.</returns>
    private int ReadOneSlot(long offset, Span<byte> destination)
    {
        Span<(int Start, int End)> missing = stackalloc (int, int)[ByteRanges.Capacity + 1];
        int gaps = 0;
        int step;
        lock (_lock)
        {
            Slot? slot = FirstIn(offset, offset + destination.Length);
            if (slot is null)
                return destination.Length;
            if (slot.Guest > offset)
                return (int)(slot.Guest - offset);
            int within = (int)(offset - slot.Guest);
            step = Math.Min(destination.Length, _geometry.ClusterSize - within);
            int at = within;
            for (int i = 0; i < slot.Written.Count; i++)
            {
                (int start, int end) = slot.Written[i];
                start = Math.Clamp(start, at, within + step);
                end = Math.Clamp(end, at, within + step);
                if (start > at)
                    missing[gaps++] = (at - within, start - within);
                slot.Content[start..end].CopyTo(destination[(start - within)..]);
                at = end;
            }

            if (at < within + step)
                missing[gaps++] = (at - within, step);
        }

        foreach ((int start, int end) in missing[..gaps])
            _image.ReadStored(new GuestOffset(offset + start), destination[start..end]);
        return -step;
    }

    /// <summary>The used slot with the lowest offset that reaches into the range.</summary>
    private Slot? FirstIn(long start, long end)
    {
        Slot? first = null;
        foreach (Slot slot in _slots)
        {
            if (slot.State != SlotState.Free && slot.Guest < end && slot.Guest + _geometry.ClusterSize > start
                && (first is null || slot.Guest < first.Guest))
                first = slot;
        }

        return first;
    }

    /// <summary>A range that is being zeroed or discarded.</summary>
    private sealed class Claim(long start, long end)
    {
        public long Start => start;

        public long End => end;
    }

    /// <summary>A cluster under way. All members are used with the lock held, the content also while it is busy.
    /// </summary>
    private sealed class Slot(byte* bytes, int clusterSize)
    {
        public SlotState State { get; set; }

        /// <summary>Guest offset of the cluster.</summary>
        public long Guest { get; set; }

        /// <summary>What tells one use of the slot from the next.</summary>
        public long Generation { get; set; }

        public long LastUse { get; set; }

        /// <summary>The claim it is busy for; null where it is not, or is busy for a thread that stores it.</summary>
        public Claim? Holder { get; set; }

        /// <summary>What the guest has written of it.</summary>
        public ByteRanges Written { get; } = new();

        public Span<byte> Content => new(bytes, clusterSize);
    }
}
