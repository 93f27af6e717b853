// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>
/// Requests over io_uring: rings that take them over after INIT, each with a thread of its own, and a pool of threads
/// that serve what may have to wait.
/// </summary>
/// <remarks>
/// A kernel that has been told of rings in the answer to INIT holds all requests back until each of its queues has an
/// entry. Whatever can fail is therefore done before: rings are open before the first worker reads INIT.
/// </remarks>
internal sealed class RingLoop : IRequestLoop
{
    private readonly FuseSession _session;
    private readonly ServerThreads _threads;
    private readonly LongCalls _longCalls;
    private readonly Action _registered;
    private readonly Action<int> _failed;
    private readonly RingWorker[] _workers;
    private readonly int _poolThreads;
    private readonly ManualResetEventSlim _settled = new();
    private readonly RingPool _pool = new();

    private int _state;
    private int _toRegister;
    private int _serving;
    private volatile bool _isStopping;

    /// <param name="rings">The rings; at least one.</param>
    /// <param name="session">Where requests are served.</param>
    /// <param name="threads">Counts the threads.</param>
    /// <param name="longCalls">Takes what may take seconds.</param>
    /// <param name="poolThreads">Threads of the pool.</param>
    /// <param name="registered">Called once all rings have their entries: requests are served from then on.</param>
    /// <param name="failed">Called with the negated error number when the kernel refuses what it had agreed to.</param>
    public RingLoop(
        IReadOnlyList<IFuseRing> rings, FuseSession session, ServerThreads threads, LongCalls longCalls,
        int poolThreads, Action registered, Action<int> failed)
    {
        _session = session;
        _threads = threads;
        _longCalls = longCalls;
        _poolThreads = poolThreads;
        _registered = registered;
        _failed = failed;
        _workers = [.. rings.Select(ring => new RingWorker(ring, _pool, session))];
        _toRegister = _workers.Length;
        _serving = _workers.Length;
    }

    private enum State
    {
        /// <summary>INIT has not been answered.</summary>
        Undecided,

        /// <summary>The kernel waits for the rings' entries.</summary>
        Used,

        /// <summary>The kernel wants none, or the server has ended before.</summary>
        Unused,
    }

    /// <summary>Whether requests come by the rings. Settled once INIT has been answered.</summary>
    public bool IsUsed => Volatile.Read(ref _state) == (int)State.Used;

    /// <inheritdoc/>
    /// <remarks>Stuck are rings whose pool has no thread to spare, or all of whose entries wait for transfers.
    /// </remarks>
    public FuseActivity Activity
    {
        get
        {
            long served = 0;
            int underWay = 0;
            int entries = 0;
            foreach (RingWorker worker in _workers)
            {
                served += worker.Served;

                // Nothing comes to the rings of processors that do not run, so they do not show that anybody is there.
                if (worker.Ring.Processor is null)
                    continue;
                underWay += worker.UnderWay;
                entries += worker.Ring.Count;
            }

            int busy = _pool.Busy;
            return busy < _poolThreads && underWay >= entries
                ? new FuseActivity(served, _poolThreads, _poolThreads)
                : new FuseActivity(served, busy, _poolThreads);
        }
    }

    /// <summary>Starts all threads, and has them open the rings.</summary>
    /// <returns>0, or a negated error number: then the loop is settled as unused.</returns>
    public int Start()
    {
        using CountdownEvent opened = new(_workers.Length);
        int failure = 0;
        int started = 0;
        try
        {
            for (int i = 0; i < _poolThreads; i++)
                _threads.Start(ServePool);
            foreach (RingWorker worker in _workers)
            {
                _threads.Start(() => Work(worker, opened, ref failure));
                started++;
            }
        }
        catch (OutOfMemoryException)
        {
            // What the runtime throws where the system has no more threads.
            Interlocked.CompareExchange(ref failure, -Errno.ENOMEM, 0);
            opened.Signal(_workers.Length - started);
        }

        opened.Wait();
        if (failure < 0)
            TrySettle(areUsed: false);
        return failure;
    }

    /// <summary>Decides what becomes of the rings, once. False if that had been decided before.</summary>
    public bool TrySettle(bool areUsed)
    {
        int state = (int)(areUsed ? State.Used : State.Unused);
        if (Interlocked.CompareExchange(ref _state, state, (int)State.Undecided) != 0)
            return false;
        _settled.Set();
        return true;
    }

    /// <summary>No more requests are begun.</summary>
    public void Stop()
    {
        _isStopping = true;
        _ = TrySettle(areUsed: false);
    }

    /// <inheritdoc/>
    public void Interrupt()
    {
        foreach (RingWorker worker in _workers)
            worker.Ring.Wake();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (RingWorker worker in _workers)
            worker.Ring.Dispose();
        _settled.Dispose();
    }

    private void Work(RingWorker worker, CountdownEvent opened, ref int failure)
    {
        IFuseRing ring = worker.Ring;
        try
        {
            if (ring.Processor is { } processor)
                worker.Place = RingPlace.At(processor);
            int result = ring.Open();
            if (result < 0)
                Interlocked.CompareExchange(ref failure, result, 0);
            opened.Signal();

            _settled.Wait();
            if (!IsUsed)
                return;
            _ = ServingThread.TrySetIOFlusher();
            result = ring.Register();
            if (result == 0 && Interlocked.Decrement(ref _toRegister) == 0)
                _registered();
            if (result == 0)
                result = worker.Serve(() => _isStopping);
            if (result < 0)
                _failed(result);
        }
        finally
        {
            ring.Close();
            if (Interlocked.Decrement(ref _serving) == 0)
                _pool.Close();
            _threads.CountDown();
        }
    }

    private void ServePool()
    {
        try
        {
            _settled.Wait();
            if (!IsUsed)
                return;
            _ = ServingThread.TrySetIOFlusher();
            _pool.Serve(_session, _longCalls);
        }
        finally
        {
            _threads.CountDown();
        }
    }
}
