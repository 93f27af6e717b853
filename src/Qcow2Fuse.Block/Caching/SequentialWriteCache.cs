// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Caching;

/// <summary>
/// Gathers small sequential writes of any length into whole clusters, so that the device below sees few, large and
/// aligned ones. Made for the packed clusters of a compressed image on a device opened past the page cache.
/// </summary>
/// <remarks>
/// <para>
/// A write continues exactly where the one before ended, or begins at the start of a cluster that is not cached. The
/// cluster that is being filled is <em>unfinished</em>, there is at most one; it is finished when it is full or when
/// another one is begun. Nothing is ever written to a finished cluster again, so it is padded with zeroes to its end
/// and written as a whole; the padding reaches no byte that anybody uses. An unfinished one may be continued at any
/// moment, and a flush writes exactly what there is of it.
/// </para>
/// <para>
/// Clusters are written one at a time in the order in which they were begun, and stay readable here until the device
/// has them. After the first failed write every write and flush fails with it, because what the device holds is not
/// known; reads go on.
/// </para>
/// <para>Any thread may call any method; it is the callers' business that the writes are sequential.</para>
/// </remarks>
public sealed unsafe class SequentialWriteCache : IDisposable
{
    private readonly BlockDevice _device;
    private readonly int _clusterSize;
    private readonly object _lock = new();
    private readonly List<Cluster> _clusters;
    private readonly Stack<Cluster> _spare;
    private readonly byte* _arena;
    private Cluster? _unfinished;
    private Cluster? _writing;
    private BlockException? _failure;
    private long _begun;
    private bool _isDisposed;

    /// <summary>Creates a cache of <paramref name="capacity"/> clusters in front of <paramref name="device"/>, which
    /// stays the caller's.</summary>
    /// <param name="device">Where the clusters go.</param>
    /// <param name="clusterSize">Bytes of a cluster, a power of two.</param>
    /// <param name="capacity">Clusters held at most, at least 3.</param>
    public SequentialWriteCache(BlockDevice device, int clusterSize, int capacity)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(capacity, 3);
        _device = device;
        _clusterSize = clusterSize;
        _clusters = new List<Cluster>(capacity);
        _spare = new Stack<Cluster>(capacity);

        // The system gives memory to pages only once they are touched.
        _arena = (byte*)NativeMemory.AlignedAlloc((nuint)clusterSize * (nuint)capacity, 4096);
        for (int i = capacity - 1; i >= 0; i--)
            _spare.Push(new Cluster(_arena + ((long)i * clusterSize)));
    }

    /// <summary>The failure of the first write that failed; null while there is none.</summary>
    public BlockException? Failure => Volatile.Read(ref _failure);

    /// <summary>Clusters that are cached.</summary>
    public int Count
    {
        get
        {
            lock (_lock)
                return _clusters.Count;
        }
    }

    /// <summary>Throws if a write has failed.</summary>
    /// <exception cref="BlockException">See <see cref="Failure"/>.</exception>
    public void ThrowIfFailed()
    {
        if (Failure is { } failure)
            throw new BlockException(failure.Kind,
                $"{_device.Name}: an earlier write failed, nothing more is written: {failure.Message}", failure);
    }

    /// <summary>Whether <paramref name="clusters"/> more clusters can be begun without waiting.</summary>
    public bool HasRoom(int clusters)
    {
        lock (_lock)
            return _spare.Count >= clusters;
    }

    /// <summary>Writes finished clusters until <see cref="HasRoom"/> is true; does I/O.</summary>
    /// <exception cref="BlockException">A write failed, now or earlier.</exception>
    public void MakeRoom(int clusters)
    {
        lock (_lock)
        {
            while (_spare.Count < clusters)
            {
                ThrowIfFailed();
                WriteNextOrWait(withUnfinished: false);
            }
        }
    }

    /// <summary>
    /// Takes a write; does no I/O. There must be room for the clusters it begins, one or more where it crosses the end
    /// of a cluster.
    /// </summary>
    /// <exception cref="BlockException">An earlier write to the device failed.</exception>
    /// <exception cref="InvalidOperationException">The write is not sequential, or there is no room.</exception>
    public void Write(long offset, ReadOnlySpan<byte> source)
    {
        lock (_lock)
        {
            ThrowIfFailed();
            while (!source.IsEmpty)
            {
                Cluster cluster = ClusterFor(offset);
                int step = Math.Min(source.Length, _clusterSize - cluster.Filled);
                source[..step].CopyTo(new Span<byte>(cluster.Bytes + cluster.Filled, step));
                cluster.Filled += step;
                if (cluster.Filled == _clusterSize)
                    FinishLocked();
                offset += step;
                source = source[step..];
            }
        }
    }

    /// <summary>
    /// Reads what is cached from <paramref name="offset"/> on, within one cluster. 0 where nothing is: then the device
    /// has it.
    /// </summary>
    /// <returns>How many bytes were read; fewer than asked for where the rest was never written.</returns>
    public int Read(long offset, Span<byte> destination)
    {
        lock (_lock)
        {
            Cluster? cluster = Find(StartOf(offset));
            if (cluster is null)
                return 0;
            int within = (int)(offset - cluster.Offset);
            int length = Math.Min(destination.Length, Math.Max(cluster.Filled - within, 0));
            new ReadOnlySpan<byte>(cluster.Bytes + within, length).CopyTo(destination);
            return length;
        }
    }

    /// <summary>Whether the cluster that contains <paramref name="offset"/> is cached.</summary>
    public bool Contains(long offset)
    {
        lock (_lock)
            return Find(StartOf(offset)) is not null;
    }

    /// <summary>
    /// Writes the finished clusters there are now, unless another thread is at it. Makes nothing durable.
    /// </summary>
    /// <exception cref="BlockException">A write failed, now or earlier.</exception>
    public void WriteFinished()
    {
        lock (_lock)
        {
            ThrowIfFailed();
            for (int left = _clusters.Count; left > 0 && _writing is null && NextFinished() is not null; left--)
                WriteNextOrWait(withUnfinished: false);
        }
    }

    /// <summary>
    /// Writes everything that was cached before the call, the unfinished cluster exactly as far as it is filled. The
    /// device's own flush is the caller's business.
    /// </summary>
    /// <exception cref="BlockException">A write failed, now or earlier.</exception>
    public void Flush()
    {
        lock (_lock)
        {
            long last = _begun;
            int filled = _unfinished?.Filled ?? 0;
            while (HasUnwritten(last, filled))
            {
                ThrowIfFailed();
                WriteNextOrWait(withUnfinished: true);
            }

            ThrowIfFailed();
        }
    }

    /// <summary>
    /// Forgets the cluster that begins at <paramref name="offset"/>, which nobody uses any more. When it returns, no
    /// write to the cluster is under way or will come.
    /// </summary>
    public void Discard(long offset)
    {
        lock (_lock)
        {
            while (Find(offset) is { } cluster)
            {
                if (ReferenceEquals(cluster, _writing))
                {
                    Monitor.Wait(_lock);
                    continue;
                }

                if (ReferenceEquals(cluster, _unfinished))
                    _unfinished = null;
                Remove(cluster);
            }
        }
    }

    /// <summary>Releases the memory; what is not flushed is lost.</summary>
    public void Dispose()
    {
        if (_isDisposed)
            return;
        _isDisposed = true;
        NativeMemory.AlignedFree(_arena);
    }

    private long StartOf(long offset) => offset & -(long)_clusterSize;

    private Cluster? Find(long start)
    {
        foreach (Cluster cluster in _clusters)
        {
            if (cluster.Offset == start)
                return cluster;
        }

        return null;
    }

    /// <summary>The cluster that a write at <paramref name="offset"/> goes to, begun where it begins one.</summary>
    private Cluster ClusterFor(long offset)
    {
        if (_unfinished is { } current && offset == current.Offset + current.Filled)
            return current;
        if (offset != StartOf(offset) || Find(offset) is not null)
            throw new InvalidOperationException($"A write at {offset} is not sequential.");
        if (_spare.Count == 0)
            throw new InvalidOperationException("There is no room for another cluster.");
        FinishLocked();
        Cluster begun = _spare.Pop();
        begun.Begin(offset, ++_begun);
        _clusters.Add(begun);
        _unfinished = begun;
        return begun;
    }

    private void FinishLocked()
    {
        if (_unfinished is { } cluster)
            cluster.IsFinished = true;
        _unfinished = null;
    }

    private Cluster? NextFinished() => _clusters.Count > 0 && _clusters[0].IsFinished ? _clusters[0] : null;

    private bool HasUnwritten(long last, int filled)
    {
        foreach (Cluster cluster in _clusters)
        {
            if (cluster.Number < last)
                return true;
            if (cluster.Number == last)
                return cluster.IsFinished || cluster.Written < filled;
        }

        return false;
    }

    /// <summary>
    /// Writes the oldest cluster, or waits where another thread is writing; releases the lock meanwhile.
    /// </summary>
    private void WriteNextOrWait(bool withUnfinished)
    {
        if (_writing is not null)
        {
            Monitor.Wait(_lock);
            return;
        }

        Cluster? next = NextFinished();
        if (next is null && withUnfinished)
            next = _unfinished;
        if (next is null)
            throw new InvalidOperationException("There is nothing to write.");
        bool whole = next.IsFinished;
        int from = whole ? 0 : next.Written & -_device.Limits.RequestAlignment;
        int to = whole ? PaddedEnd(next) : next.Filled;
        if (whole)
            new Span<byte>(next.Bytes + next.Filled, Math.Max(to - next.Filled, 0)).Clear();
        BlockException? failure = WriteUnlocked(next, from, to);
        if (failure is null && whole)
            Remove(next);
        else if (failure is null)
            next.Written = to;
        _failure ??= failure;
        if (failure is not null)
            throw new BlockException(failure.Kind, failure.Message, failure, failure.Cause);
    }

    /// <summary>A device that does not grow may end inside its last cluster.</summary>
    private int PaddedEnd(Cluster cluster)
    {
        if (_device.Limits.GrowsOnWrite)
            return _clusterSize;
        return Math.Max(cluster.Filled, (int)Math.Min(_clusterSize, _device.Length - cluster.Offset));
    }

    private BlockException? WriteUnlocked(Cluster cluster, int from, int to)
    {
        _writing = cluster;
        Monitor.Exit(_lock);
        try
        {
            _device.Write(cluster.Offset + from, new ReadOnlySpan<byte>(cluster.Bytes + from, to - from));
            return null;
        }
        catch (BlockException e)
        {
            return e;
        }
        finally
        {
            Monitor.Enter(_lock);
            _writing = null;
            Monitor.PulseAll(_lock);
        }
    }

    private void Remove(Cluster cluster)
    {
        _clusters.Remove(cluster);
        _spare.Push(cluster);
        Monitor.PulseAll(_lock);
    }

    private sealed class Cluster(byte* bytes)
    {
        public byte* Bytes { get; } = bytes;

        public long Offset { get; private set; }

        /// <summary>Its place in the order of clusters, from 1.</summary>
        public long Number { get; private set; }

        public int Filled { get; set; }

        /// <summary>How much of it the device has.</summary>
        public int Written { get; set; }

        public bool IsFinished { get; set; }

        public void Begin(long offset, long number)
        {
            Offset = offset;
            Number = number;
            Filled = 0;
            Written = 0;
            IsFinished = false;
        }
    }
}
