// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Fuse;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>
/// FUSE over io_uring: rings that take the requests over after INIT, each with a thread of its own, and threads that
/// serve what may have to wait.
/// </summary>
/// <remarks>
/// A kernel that has been told of rings in the answer to INIT holds all requests back until each of its queues has an
/// entry. Whatever can fail is therefore done before: rings are open before the first worker reads INIT.
/// </remarks>
public sealed partial class FuseServer
{
    private readonly ManualResetEventSlim _ringsSettled = new();
    private readonly RingPool _pool = new();

    private RingWorker[] _ringWorkers = [];
    private int _ringState;
    private int _ringsToRegister;
    private int _ringsServing;
    private int _uringFailure;

    private enum RingState
    {
        /// <summary>INIT has not been answered.</summary>
        Undecided,

        /// <summary>The kernel waits for the rings' entries.</summary>
        Used,

        /// <summary>There are none, the kernel wants none, or the server has ended before.</summary>
        Unused,
    }

    /// <summary>Whether requests come over io_uring. Settled once <see cref="WaitForInit"/> has returned.</summary>
    public bool UsesUring => Volatile.Read(ref _ringState) == (int)RingState.Used;

    /// <summary>
    /// Why requests do not come over io_uring although the options ask for it, for people; null where they do, or
    /// nobody has asked. Settled once <see cref="WaitForInit"/> has returned.
    /// </summary>
    public string? UringRefusal { get; private set; }

    /// <summary>
    /// 0, or the negated error number with which the kernel refused what it had agreed to; the server then ends.
    /// </summary>
    public int UringFailure => Volatile.Read(ref _uringFailure);

    /// <summary>Makes rings and threads and opens them. Where that fails none are left.</summary>
    private void PrepareRings()
    {
        IReadOnlyList<IFuseRing> rings = _transport.CreateRings(Session.PayloadCapacity, out string refusal);
        if (rings.Count == 0)
        {
            UringRefusal = refusal;
            return;
        }

        RingWorker[] workers = [.. rings.Select(ring => new RingWorker(ring, _pool, Session))];
        _ringWorkers = workers;
        _ringsToRegister = workers.Length;
        _ringsServing = workers.Length;
        using CountdownEvent opened = new(workers.Length);
        int failure = 0;
        int started = 0;
        try
        {
            for (int i = 0; i < _options.Workers; i++)
                StartThread(ServePool);
            foreach (RingWorker worker in workers)
            {
                StartThread(() => Work(worker, opened, ref failure));
                started++;
            }
        }
        catch (OutOfMemoryException)
        {
            // What the runtime throws where the system has no more threads.
            Interlocked.CompareExchange(ref failure, -FuseErrno.ENOMEM, 0);
            opened.Signal(workers.Length - started);
        }

        opened.Wait();
        if (failure < 0)
        {
            UringRefusal = FuseUringPlan.Describe(failure);
            SettleRings(RingState.Unused);
        }
        else
        {
            Session.HasRings = true;
        }
    }

    /// <summary>Called when INIT has been answered, by the one worker there is, or by any where there are no rings.
    /// </summary>
    private void FinishInit()
    {
        if (!Session.HasRings)
        {
            AnnounceInit();
            return;
        }

        if (Session.Features.HasFlag(FuseInitFlags.OverIOUring))
        {
            SettleRings(RingState.Used);
            return;
        }

        if (!SettleRings(RingState.Unused))
            return;
        UringRefusal = "the kernel does not offer it";
        StartTransfers();
        for (int i = 1; i < _slots.Count && !_stopping; i++)
            StartWorker(_slots[i]);
        AnnounceInit();
    }

    /// <summary>Decides what becomes of the rings, once. False if that had been decided before.</summary>
    private bool SettleRings(RingState state)
    {
        if (Interlocked.CompareExchange(ref _ringState, (int)state, (int)RingState.Undecided) != 0)
            return false;
        _ringsSettled.Set();
        return true;
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

            _ringsSettled.Wait();
            if (!UsesUring)
                return;
            _ = ServingThread.TrySetIOFlusher();
            result = ring.Register();
            if (result == 0 && Interlocked.Decrement(ref _ringsToRegister) == 0)
                AnnounceInit();
            if (result == 0)
                result = worker.Serve(() => _stopping);
            if (result < 0)
                Fail(result);
        }
        finally
        {
            ring.Close();
            if (Interlocked.Decrement(ref _ringsServing) == 0)
                _pool.Close();
            CountDown();
        }
    }

    private void ServePool()
    {
        try
        {
            _ringsSettled.Wait();
            if (!UsesUring)
                return;
            _ = ServingThread.TrySetIOFlusher();
            _pool.Serve(Session, entry => Assign(TryTakeLong(entry)), EndLongByWorker);
        }
        finally
        {
            CountDown();
        }
    }

    /// <summary>Gives a request of a ring a thread of its own; false where there is none to be had.</summary>
    private bool TryTakeLong(FuseRingEntry entry)
    {
        try
        {
            return TryStartLong(() => RingPool.Serve(Session, entry));
        }
        catch (OutOfMemoryException)
        {
            // The pool serves it.
            return false;
        }
    }

    /// <summary>
    /// Ends the server: a queue with too few entries would keep its users waiting, and the end of the session gives
    /// them errors.
    /// </summary>
    private void Fail(int result)
    {
        if (_stopping || Interlocked.CompareExchange(ref _uringFailure, result, 0) != 0)
            return;
        _initialised.Set();
        Thread thread = new(Stop) { IsBackground = true, Name = "fuse-stop" };
        thread.Start();
    }

    /// <summary>
    /// Stuck are rings whose pool has no thread to spare, or all of whose entries wait for transfers.
    /// </summary>
    private FuseActivity RingActivity()
    {
        long served = _slots[0].Served;
        int underWay = 0;
        int entries = 0;
        foreach (RingWorker worker in _ringWorkers)
        {
            served += worker.Served;

            // Nothing comes to the rings of processors that do not run, so they do not show that anybody is there.
            if (worker.Ring.Processor is null)
                continue;
            underWay += worker.UnderWay;
            entries += worker.Ring.Count;
        }

        int busy = _pool.Busy;
        return busy < _options.Workers && underWay >= entries
            ? new FuseActivity(served, _options.Workers, _options.Workers)
            : new FuseActivity(served, busy, _options.Workers);
    }
}
