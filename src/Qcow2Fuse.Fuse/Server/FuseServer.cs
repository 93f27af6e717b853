// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Processes;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>Serves a file system: a session, a transport and the threads between them.</summary>
/// <remarks>
/// An unmount, by whomever, ends it. After a lazy unmount the kernel goes on sending requests until the last open
/// file is closed.
/// </remarks>
public sealed partial class FuseServer : IDisposable
{
    private const int WorkerStackSize = 256 * 1024;
    private const int MaxWorkers = 256;

    private static readonly TimeSpan InterruptPeriod = TimeSpan.FromMilliseconds(5);

    private readonly IFuseTransport _transport;
    private readonly FuseServerOptions _options;
    private readonly List<FuseSlot> _slots = [];
    private readonly ReaderGate _readers = new(
        least: Math.Max(2, Environment.ProcessorCount), most: Math.Max(4, 2 * Environment.ProcessorCount));
    private readonly ManualResetEventSlim _initialised = new();
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private int _announced;
    private int _running;
    private bool _started;
    private bool _disposed;
    private volatile bool _stopping;

    /// <summary>Prepares to serve; <paramref name="transport"/> now belongs to the server.</summary>
    public FuseServer(IFuseTransport transport, IFuseFileSystem fileSystem, FuseServerOptions options)
    {
        if (options.Workers is < 1 or > MaxWorkers)
            throw new ArgumentException("Workers is not from 1 to 256", nameof(options));
        _transport = transport;
        _options = options;
        Session = new FuseSession(fileSystem, options);
        Invalidator = new FuseInvalidator(transport);
    }

    /// <summary>Tells the kernel what changed behind its back; its thread runs from start to stop.</summary>
    public FuseInvalidator Invalidator { get; }

    /// <summary>What was negotiated with the kernel.</summary>
    public FuseSession Session { get; }

    /// <summary>What the workers have done and are doing. After <see cref="Start"/>, from any thread.</summary>
    public FuseActivity Activity => UsesUring ? RingActivity() : WorkerActivity();

    /// <summary>Completes when all workers have ended.</summary>
    public Task Ended => _ended.Task;

    /// <summary>Creates the workers and begins to serve. Once.</summary>
    public void Start()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_started)
            throw new InvalidOperationException("the server has been started before");
        for (int i = 0; i < _options.Workers; i++)
        {
            FuseSlot slot = _transport.CreateSlot(Session.PayloadCapacity);
            _slots.Add(slot);
            if (_options.PopulateBuffers)
                slot.Populate();
        }

        if (_options.Resumption is { CanResend: true })
            Resend();

        // This method counts as a worker while it starts the others.
        _started = true;
        _running = 1;
        try
        {
            if (_options.Uring)
                PrepareRings();

            // With rings one worker is left what does not come by them; the others begin if the kernel wants no rings.
            int workers = Session.HasRings ? 1 : _slots.Count;
            if (!Session.HasRings)
                StartTransfers();
            for (int i = 0; i < workers; i++)
                StartWorker(_slots[i]);
            Invalidator.Start();
            if (_options.Resumption is not null)
                AnnounceInit();
        }
        finally
        {
            CountDown();
        }
    }

    /// <summary>Waits until the kernel has got the answer to INIT: from then on the mount can be used.</summary>
    /// <returns>False when the time is over or the workers have ended before.</returns>
    public bool WaitForInit(TimeSpan timeout) =>
        _initialised.Wait(timeout) && Session.IsInitialised && UringFailure == 0;

    /// <summary>Waits until all workers have ended.</summary>
    public void WaitForEnd() => Ended.Wait();

    /// <summary>
    /// Waits until all workers have ended, at most <paramref name="timeout"/>; false when time is over.
    /// </summary>
    public bool WaitForEnd(TimeSpan timeout) => Ended.Wait(timeout);

    /// <summary>
    /// Ends the workers, each after the request it has in work, whether the mount is gone or not, and waits for
    /// them. Never to be called on a worker.
    /// </summary>
    public void Stop()
    {
        if (!_started)
            return;

        // First, because a notification under way may need a worker to end.
        Invalidator.Dispose();
        _stopping = true;
        _readers.Open();
        SettleRings(RingState.Unused);

        // A worker may be on its way into the blocking call just when it is interrupted, hence again and again.
        do
        {
            foreach (FuseSlot slot in _slots)
                _transport.Interrupt(slot);
            foreach (RingWorker worker in _ringWorkers)
                worker.Ring.Wake();
        }
        while (!Ended.Wait(InterruptPeriod));
    }

    /// <summary>Stops, and closes the session, which ends the mount for those who still use it.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        Stop();
        _disposed = true;
        foreach (RingWorker worker in _ringWorkers)
            worker.Ring.Dispose();
        _transfers?.Dispose();
        foreach (FuseSlot slot in _slots)
            _transport.ReleaseSlot(slot);

        _transport.Dispose();
        _initialised.Dispose();
        _ringsSettled.Dispose();
    }

    /// <summary>
    /// Before any worker has a request of its own: one that is in work would come to a second worker too, which could
    /// answer it, and the first would go on to write long after.
    /// </summary>
    private void Resend()
    {
        FuseOutHeader message = new() { Length = FuseAbi.OutHeaderSize, Error = FuseNotifyCodes.Resend };
        int result = _transport.Notify(MemoryMarshal.AsBytes(new ReadOnlySpan<FuseOutHeader>(in message)));
        if (result < 0 && result != -FuseErrno.ENODEV)
        {
            throw new FuseMountException(
                FuseMountError.System, $"requests in work are not sent again: {Errno.Text(-result)}");
        }
    }

    private void StartWorker(FuseSlot slot) => StartThread(() => Work(slot));

    /// <summary>As <see cref="TryStartThread"/>.</summary>
    /// <exception cref="InsufficientMemoryException">There is no room for one.</exception>
    private void StartThread(ThreadStart work)
    {
        if (!TryStartThread(work))
            throw new InsufficientMemoryException("no thread can be started");
    }

    /// <summary>Starts a thread that counts as running and ends with <see cref="CountDown"/>.</summary>
    /// <returns>False where there is no room for one.</returns>
    /// <exception cref="OutOfMemoryException">There is no memory to ask for one. Nothing was counted.</exception>
    private bool TryStartThread(ThreadStart work)
    {
        Thread thread = NewThread(work);
        bool isStarted = false;
        Interlocked.Increment(ref _running);
        try
        {
            isStarted = ManagedRoom.TryStart(thread);
        }
        finally
        {
            if (!isStarted)
                CountDown();
        }

        return isStarted;
    }

    /// <summary>A thread, not started, that serves requests.</summary>
    internal static Thread NewThread(ThreadStart work) => new(work, WorkerStackSize)
    {
        IsBackground = true,
        Name = "fuse",
    };

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

            // After an end before INIT there is nothing to come for the rings.
            SettleRings(RingState.Unused);
            CountDown();
        }
    }

    private void CountDown()
    {
        if (Interlocked.Decrement(ref _running) != 0)
            return;
        if (_transfers is null)
            SetEnded();
        else
            _transfers.Close();
    }

    private void SetEnded()
    {
        _initialised.Set();
        _ended.SetResult();
    }

    private FuseActivity WorkerActivity()
    {
        FuseActivity workers = FuseActivity.Of(_slots, _transfers);
        return workers with { Served = workers.Served + Volatile.Read(ref _longServed) };
    }

    private void Serve(FuseSlot slot)
    {
        while (!_stopping)
        {
            _readers.Enter(_transfers is { IsDeep: true });
            int length = _transport.Receive(slot);
            _readers.Leave();
            if (length < 0)
                return;
            if (length == 0)
                continue;
            LongServer server = Session.MayTakeLong(slot, length)
                ? Assign(TryTakeLong(slot, length)) : LongServer.Worker;
            if (server == LongServer.Nobody)
            {
                _transport.Reply(slot, FuseSession.Refuse(slot, FuseErrno.EAGAIN));
                Interlocked.Increment(ref _longServed);
                continue;
            }

            if (server == LongServer.Another || _transfers?.TryTake(slot, length) == true)
                continue;

            _readers.CallOthers();
            slot.Begin();
            int reply = Session.Dispatch(slot, length);
            _transfers?.Finish();
            if (reply > 0)
                _transport.Reply(slot, reply);
            slot.Finish();
            if (server == LongServer.LongByWorker)
                EndLongByWorker();
            if (!_initialised.IsSet && Session.IsInitialised)
                FinishInit();
        }
    }

    private void AnnounceInit()
    {
        if (Interlocked.Exchange(ref _announced, 1) != 0)
            return;
        _initialised.Set();
        _options.OnInitialised?.Invoke();
    }
}
