// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux;

namespace Qcow2Fuse.Fuse;

/// <summary>FUSE over io_uring: rings that take the requests over after INIT, each with a thread of its own.</summary>
/// <remarks>
/// A kernel that has been told of rings in the answer to INIT holds all requests back until each of its queues has an
/// entry. Whatever can fail is therefore done before: rings are open before the first worker reads INIT.
/// </remarks>
public sealed partial class FuseServer
{
    private readonly ManualResetEventSlim _ringsSettled = new();

    private RingWorker[] _ringWorkers = [];
    private int _ringState;
    private int _ringsToRegister;
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
        IReadOnlyList<IFuseRing> rings = _transport.CreateRings(
            Session.PayloadCapacity, _options.Workers, out string refusal);
        if (rings.Count == 0)
        {
            UringRefusal = refusal;
            return;
        }

        RingWorker[] workers = [.. rings.Select(static ring => new RingWorker(ring))];
        _ringWorkers = workers;
        _ringsToRegister = workers.Length;
        using CountdownEvent opened = new(workers.Length);
        int failure = 0;
        int started = 0;
        try
        {
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
            // Not permitted where the process is kept off that processor; requests then come from it all the same.
            if (ring.Processor is { } processor)
                _ = Processors.TryPin(processor);
            int result = ring.Open();
            if (result < 0)
                Interlocked.CompareExchange(ref failure, result, 0);
            opened.Signal();

            _ringsSettled.Wait();
            if (!UsesUring)
                return;
            if (ServingThread.TrySetIOFlusher() == 0)
                Interlocked.Increment(ref _flushers);
            result = ring.Register();
            if (result < 0)
                Fail(result);
            else if (Interlocked.Decrement(ref _ringsToRegister) == 0)
                AnnounceInit();
            if (result >= 0)
                Serve(worker);
        }
        finally
        {
            ring.Close();
            CountDown();
        }
    }

    private void Serve(RingWorker worker)
    {
        while (!_stopping)
        {
            int length = worker.Ring.Receive(out FuseRingEntry? entry);
            if (length < 0)
            {
                if (length != -FuseErrno.ENOTCONN)
                    Fail(length);
                return;
            }

            if (entry is null)
                continue;
            worker.Begin(entry);
            entry.Complete(Session.Dispatch(entry.Slot, length));
            worker.Ring.Reply(entry);
            worker.Finish();
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

    private FuseActivity RingActivity()
    {
        long served = _slots[0].Served;
        int busy = 0;
        int workers = 0;
        foreach (RingWorker worker in _ringWorkers)
        {
            served += worker.Served;

            // Nothing comes to the rings of processors that do not run, so they do not show that anybody is there.
            if (worker.Ring.Processor is null)
                continue;
            workers++;
            busy += worker.IsBusy ? 1 : 0;
        }

        return new FuseActivity(served, busy, workers);
    }

    /// <summary>A ring, its thread, and what it has done.</summary>
    private sealed class RingWorker(IFuseRing ring)
    {
        private volatile FuseRingEntry? _inWork;
        private long _served;

        public IFuseRing Ring { get; } = ring;

        public bool IsBusy => _inWork is not null;

        public long Served => Volatile.Read(ref _served);

        public void Begin(FuseRingEntry entry) => _inWork = entry;

        public void Finish()
        {
            Volatile.Write(ref _served, _served + 1);
            _inWork = null;
        }
    }
}
