// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Qcow2.Compression;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Gathering;

/// <summary>
/// Threads that store finished clusters while the guest writes the next ones: they compress side by side and link one
/// cluster after the other, in the order in which the clusters were handed over.
/// </summary>
/// <remarks>
/// A cluster that could not be stored is an open slot again. Its failure is kept until a flush reports it; until then
/// whoever finishes a cluster stores it itself, and is told at once what comes of it. A flush that fails, whatever it
/// fails with, has told of all that was handed over before it: it returns when the packers are done with that.
/// </remarks>
internal sealed class ClusterPackers
{
    private const int PackersMax = 8;
    private const int QueuedPerPacker = 2;
    private const int StackSize = 256 * 1024;

    private readonly string _name;
    private readonly GatheredSlots _slots;
    private readonly StoredClusters _stored;
    private readonly object _lock;
    private readonly Packing[] _queue;
    private readonly List<Thread> _packers = [];

    /// <summary>How many clusters were linked, taken to be compressed, and handed over so far.</summary>
    private long _linked;
    private long _taken;
    private long _handedOver;
    private int _packersWanted;
    private bool _isLinking;
    private bool _isEnding;
    private Exception? _failure;

    /// <param name="name">What messages call the image.</param>
    /// <param name="slots">Where the clusters are; its lock guards the queue too.</param>
    /// <param name="stored">Stores them.</param>
    /// <param name="packers">How many threads, at most; null for as many as there are processors, at most 8.</param>
    public ClusterPackers(string name, GatheredSlots slots, StoredClusters stored, int? packers)
    {
        _name = name;
        _slots = slots;
        _stored = stored;
        _lock = slots.Lock;
        _packersWanted = packers ?? Math.Clamp(Environment.ProcessorCount, 1, PackersMax);
        _queue = new Packing[_packersWanted * QueuedPerPacker];
        for (int i = 0; i < _queue.Length; i++)
            _queue[i] = new Packing();
    }

    /// <summary>
    /// Has the packers store all they were given, and ends them; whatever is stored later is stored by its caller.
    /// </summary>
    public void End()
    {
        lock (_lock)
        {
            _packersWanted = 0;
            _isEnding = true;
            Monitor.PulseAll(_lock);
        }

        foreach (Thread packer in _packers)
            packer.Join();
    }

    /// <summary>
    /// The first failure that a packer met since the last call, or null; the caller reports it. The cluster may have
    /// been stored since then.
    /// </summary>
    public BlockException? TakeFailure()
    {
        Exception? failure;
        lock (_lock)
        {
            failure = _failure;
            _failure = null;
        }

        return failure switch
        {
            null => null,
            BlockException block => new BlockException(block.Kind, block.Message, block, block.Cause),
            _ => new BlockException(
                BlockErrorKind.Io, $"{_name}: a cluster could not be stored: {failure.Message}", failure),
        };
    }

    /// <summary>Has a packer store a busy slot, once there is room in the queue; false where the caller has to.
    /// </summary>
    /// <param name="slot">The slot.</param>
    /// <param name="isAwaited">The caller finds out itself whether it was stored; its failure need not be kept.</param>
    public bool TryHandOver(GatheredSlot slot, bool isAwaited)
    {
        lock (_lock)
        {
            while (MayHandOver() && _handedOver - _linked == _queue.Length)
                Monitor.Wait(_lock);
            if (!MayHandOver() || !HasPackers())
                return false;
            Packing packing = _queue[_handedOver++ % _queue.Length];
            packing.Slot = slot;
            packing.IsAwaited = isAwaited;
            Monitor.PulseAll(_lock);
            return true;
        }
    }

    /// <summary>Waits until the packers are done with all that was handed over before the call.</summary>
    public void Wait()
    {
        lock (_lock)
        {
            long handedOver = _handedOver;
            while (_linked < handedOver)
                Monitor.Wait(_lock);
        }
    }

    private bool MayHandOver() => _packersWanted > 0 && _failure is null && !_stored.HasFailed;

    /// <summary>Starts the packers with the first cluster; the lock is held.</summary>
    private bool HasPackers()
    {
        while (_packers.Count < _packersWanted)
        {
            Thread packer = new(Pack, StackSize) { IsBackground = true, Name = "packer" };
            if (!ManagedRoom.TryStart(packer))
            {
                // Those there are do the work, or the writers do.
                _packersWanted = _packers.Count;
                break;
            }

            _packers.Add(packer);
        }

        return _packersWanted > 0;
    }

    private void Pack()
    {
        while (Take() is { } packing)
        {
            Compress(packing);
            bool links;
            lock (_lock)
            {
                packing.IsCompressed = true;
                links = !_isLinking;
                _isLinking = true;
            }

            // Who is linking goes on until the next one in the order is not compressed yet.
            if (links)
                LinkInOrder();
        }
    }

    private Packing? Take()
    {
        lock (_lock)
        {
            while (_taken == _handedOver)
            {
                if (_isEnding)
                    return null;
                Monitor.Wait(_lock);
            }

            return _queue[_taken++ % _queue.Length];
        }
    }

    private void Compress(Packing packing)
    {
        GatheredSlot slot = packing.Slot!;
        try
        {
            _stored.Complete(slot);
            packing.Bytes = BufferPool.Shared.Rent(slot.Content.Length);
            packing.Form = _stored.Compress(slot.Content, packing.Bytes.Span, out packing.Length);
        }
        catch (Exception e)
        {
            // A thread must not end the process; LinkInOrder passes it on.
            packing.Failure = e;
        }
    }

    private void LinkInOrder()
    {
        while (true)
        {
            Packing packing;
            lock (_lock)
            {
                packing = _queue[_linked % _queue.Length];
                if (!packing.IsCompressed)
                {
                    _isLinking = false;
                    break;
                }
            }

            Link(packing);
            lock (_lock)
            {
                if (!packing.IsAwaited)
                    _failure ??= packing.Failure;
                _slots.Finish(packing.Slot!, packing.Failure is null);
                packing.Reset();
                _linked++;
            }
        }

        try
        {
            _stored.WriteFinished();
        }
        catch (Exception e)
        {
            lock (_lock)
                _failure ??= e;
        }
    }

    private void Link(Packing packing)
    {
        try
        {
            if (packing.Failure is null)
            {
                _stored.StoreInBackground(
                    new GuestOffset(packing.Slot!.Guest), packing.Slot.Content, packing.Form,
                    packing.Bytes.Span[..packing.Length]);
            }
        }
        catch (Exception e)
        {
            packing.Failure = e;
        }
        finally
        {
            packing.Bytes.Dispose();
            packing.Bytes = default;
        }
    }

    /// <summary>A cluster on its way through the packers; its fields belong to one thread at a time.</summary>
    private sealed class Packing
    {
        /// <summary>The bytes of the compressed form.</summary>
        public int Length;

        /// <summary>The slot, which is busy; null while the place in the queue is free.</summary>
        public GatheredSlot? Slot { get; set; }

        /// <summary>Whether it may be linked in its turn. Used with the lock held.</summary>
        public bool IsCompressed { get; set; }

        /// <summary>Whether somebody waits for it and tries again after a failure.</summary>
        public bool IsAwaited { get; set; }

        public ClusterForm Form { get; set; }

        public PooledBuffer Bytes { get; set; }

        public Exception? Failure { get; set; }

        public void Reset()
        {
            Slot = null;
            IsCompressed = false;
            Failure = null;
        }
    }
}
