// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Compression;

/// <summary>
/// Threads that store finished clusters while the guest writes the next ones: they compress side by side and link one
/// cluster after the other, in the order in which the clusters were handed over.
/// </summary>
/// <remarks>
/// A cluster that could not be stored is an open slot again. Its failure is kept until a flush reports it; until then
/// whoever finishes a cluster stores it itself, and is told at once what comes of it. A flush that fails, whatever it
/// fails with, has told of all that was handed over before it: it returns when the packers are done with that.
/// </remarks>
internal sealed unsafe partial class CompressedTarget
{
    private const int PackersMax = 8;
    private const int QueuedPerPacker = 2;
    private const int StackSize = 256 * 1024;

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

    /// <summary>
    /// Has the packers store all they were given, and ends them; whatever is stored later is stored by its caller.
    /// </summary>
    public void EndPackers()
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
                BlockErrorKind.Io, $"{_image.Name}: a cluster could not be stored: {failure.Message}", failure),
        };
    }

    private static int PackersFor(int? wanted) => wanted ?? Math.Clamp(Environment.ProcessorCount, 1, PackersMax);

    private static Packing[] NewQueue(int packers)
    {
        var queue = new Packing[packers * QueuedPerPacker];
        for (int i = 0; i < queue.Length; i++)
            queue[i] = new Packing();
        return queue;
    }

    /// <summary>Stores a busy slot: a packer does it, once there is room in the queue, or else the caller.</summary>
    /// <param name="slot">The slot.</param>
    /// <param name="isAwaited">The caller finds out itself whether it was stored; its failure need not be kept.</param>
    private void HandOver(Slot slot, bool isAwaited)
    {
        lock (_lock)
        {
            while (MayHandOver() && _handedOver - _linked == _queue.Length)
                Monitor.Wait(_lock);
            if (MayHandOver() && HasPackers())
            {
                Packing packing = _queue[_handedOver++ % _queue.Length];
                packing.Slot = slot;
                packing.IsAwaited = isAwaited;
                Monitor.PulseAll(_lock);
                return;
            }
        }

        Store(slot);
    }

    /// <summary>Waits until the packers are done with all that was handed over before the call.</summary>
    private void WaitForPackers()
    {
        lock (_lock)
        {
            long handedOver = _handedOver;
            while (_linked < handedOver)
                Monitor.Wait(_lock);
        }
    }

    private bool MayHandOver() => _packersWanted > 0 && _failure is null && !_image.HasFailed;

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
        Slot slot = packing.Slot!;
        try
        {
            Complete(slot);
            packing.Bytes = BufferPool.Shared.Rent(_geometry.ClusterSize);
            packing.Form = _image.CompressCluster(slot.Content, packing.Bytes.Span, out packing.Length);
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
                Slot slot = packing.Slot!;
                slot.LastUse = ++_clock;
                if (!packing.IsAwaited)
                    _failure ??= packing.Failure;
                Settle(slot, packing.Failure is null);
                packing.Reset();
                _linked++;
            }
        }

        try
        {
            _image.WriteFinishedClusters();
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
                _image.StoreInBackground(
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
        public Slot? Slot { get; set; }

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

/// <summary>As what a whole cluster is stored.</summary>
internal enum ClusterForm
{
    /// <summary>As it is: it does not become smaller.</summary>
    Plain,

    /// <summary>Compressed.</summary>
    Packed,

    /// <summary>As an entry of the tables that says it reads as zeroes, where they can say it.</summary>
    Zero,
}
