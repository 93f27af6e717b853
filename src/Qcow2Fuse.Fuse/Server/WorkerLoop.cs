// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>
/// Requests by /dev/fuse: workers that each receive one, serve it, or leave it to the disk
/// (<see cref="TransferQueue"/>) or to a thread of its own (<see cref="LongCalls"/>), and receive the next.
/// </summary>
internal sealed class WorkerLoop : IRequestLoop
{
    private readonly FuseSession _session;
    private readonly IFuseTransport _transport;
    private readonly ServerThreads _threads;
    private readonly LongCalls _longCalls;
    private readonly FuseServerOptions _options;
    private readonly Action _initAnswered;
    private readonly Action _workerEnded;
    private readonly List<FuseSlot> _slots = [];
    private readonly ReaderGate _readers = new(
        least: Math.Max(2, Environment.ProcessorCount), most: Math.Max(4, 2 * Environment.ProcessorCount));

    private TransferQueue? _transfers;
    private bool _isInitTold;
    private volatile bool _isStopping;

    /// <param name="session">Where requests are served.</param>
    /// <param name="transport">Where they come from.</param>
    /// <param name="threads">Counts the workers.</param>
    /// <param name="longCalls">Takes what may take seconds.</param>
    /// <param name="options">How many workers there are, and what they have.</param>
    /// <param name="initAnswered">Called by a worker when the kernel has the answer to INIT; more than once where
    /// several workers see it.</param>
    /// <param name="workerEnded">Called by each worker at its end.</param>
    public WorkerLoop(
        FuseSession session, IFuseTransport transport, ServerThreads threads, LongCalls longCalls,
        FuseServerOptions options, Action initAnswered, Action workerEnded)
    {
        _session = session;
        _transport = transport;
        _threads = threads;
        _longCalls = longCalls;
        _options = options;
        _initAnswered = initAnswered;
        _workerEnded = workerEnded;
    }

    /// <summary>Workers with buffers, started or not.</summary>
    public int Count => _slots.Count;

    /// <summary>Requests the first worker has finished, which is the only one beside rings.</summary>
    public long ServedByFirst => _slots[0].Served;

    /// <summary>Requests left to the disk; null where none are.</summary>
    public TransferQueue? Transfers => _transfers;

    /// <inheritdoc/>
    public FuseActivity Activity
    {
        get
        {
            FuseActivity workers = FuseActivity.Of(_slots, _transfers);
            return workers with { Served = workers.Served + _longCalls.Served };
        }
    }

    /// <summary>Makes the buffers of all workers.</summary>
    public void Prepare()
    {
        for (int i = 0; i < _options.Workers; i++)
        {
            FuseSlot slot = _transport.CreateSlot(_session.PayloadCapacity);
            _slots.Add(slot);
            if (_options.PopulateBuffers)
                slot.Populate();
        }
    }

    /// <summary>
    /// Begins to leave transfers to the disk, where the options ask for it and the kernel has room; before the workers
    /// that are to use the queue start.
    /// </summary>
    /// <param name="ended">Called by the thread of the queue at its end; it lasts longer than all workers.</param>
    public void StartTransfers(Action ended)
    {
        if (!_options.QueuesTransfers)
            return;
        TransferQueue? queue = TransferQueue.TryCreate(_session, _transport, _options.MaxBackground);
        if (queue is null)
            return;
        try
        {
            if (_options.PopulateBuffers)
                queue.Populate();
            ServerThreads.New(() => Serve(queue, ended)).Start();
        }
        catch
        {
            queue.Dispose();
            throw;
        }

        _transfers = queue;
    }

    /// <summary>Starts workers.</summary>
    /// <param name="from">Number of the first one.</param>
    /// <param name="to">Number behind the last one.</param>
    public void Start(int from, int to)
    {
        for (int i = from; i < to && !_isStopping; i++)
        {
            FuseSlot slot = _slots[i];
            _threads.Start(() => Work(slot));
        }
    }

    /// <summary>No worker begins another request.</summary>
    public void Stop()
    {
        _isStopping = true;
        _readers.Open();
    }

    /// <inheritdoc/>
    public void Interrupt()
    {
        foreach (FuseSlot slot in _slots)
            _transport.Interrupt(slot);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _transfers?.Dispose();
        foreach (FuseSlot slot in _slots)
            _transport.ReleaseSlot(slot);
    }

    private static void Serve(TransferQueue queue, Action ended)
    {
        _ = ServingThread.TrySetIOFlusher();
        queue.Serve();
        ended();
    }

    private void Work(FuseSlot slot)
    {
        _ = ServingThread.TrySetIOFlusher();
        slot.ThreadId = ServingThread.CurrentId();
        try
        {
            Serve(slot);
        }
        finally
        {
            slot.ThreadId = 0;
            _workerEnded();
            _threads.CountDown();
        }
    }

    private void Serve(FuseSlot slot)
    {
        while (!_isStopping)
        {
            _readers.Enter(_transfers is { IsDeep: true });
            int length = _transport.Receive(slot);
            _readers.Leave();
            if (length < 0)
                return;
            if (length == 0)
                continue;
            LongServer server = _longCalls.Assign(slot, length);
            if (server == LongServer.Nobody)
            {
                _transport.Reply(slot, FuseSession.Refuse(slot, Errno.EAGAIN));
                _longCalls.CountRefused();
                continue;
            }

            if (server == LongServer.Another || _transfers?.TryTake(slot, length) == true)
                continue;

            _readers.CallOthers();
            slot.Begin();
            int reply = _session.Dispatch(slot, length);
            _transfers?.Finish();
            if (reply > 0)
                _transport.Reply(slot, reply);
            slot.Finish();
            if (server == LongServer.LongByWorker)
                _longCalls.EndByLoop();
            if (!_isInitTold && _session.IsInitialised)
                TellInit();
        }
    }

    private void TellInit()
    {
        _isInitTold = true;
        _initAnswered();
    }
}
