// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>Serves a file system: a session, a transport and the loops of threads between them.</summary>
/// <remarks>
/// An unmount, by whomever, ends it. After a lazy unmount the kernel goes on sending requests until the last open
/// file is closed.
/// </remarks>
public sealed class FuseServer : IDisposable
{
    private const int MaxWorkers = 256;

    private static readonly TimeSpan InterruptPeriod = TimeSpan.FromMilliseconds(5);

    private readonly IFuseTransport _transport;
    private readonly FuseServerOptions _options;
    private readonly ServerThreads _threads;
    private readonly LongCalls _longCalls;
    private readonly WorkerLoop _workers;
    private readonly ManualResetEventSlim _initialised = new();
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private RingLoop? _rings;
    private int _uringFailure;
    private int _announced;
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
        _threads = new ServerThreads(OnThreadsEnded);
        _longCalls = new LongCalls(Session, transport, _threads, options);
        _workers = new WorkerLoop(Session, transport, _threads, _longCalls, options, OnInitAnswered, OnWorkerEnded);
    }

    /// <summary>Tells the kernel what changed behind its back; its thread runs from start to stop.</summary>
    public FuseInvalidator Invalidator { get; }

    /// <summary>What was negotiated with the kernel.</summary>
    public FuseSession Session { get; }

    /// <summary>What the workers have done and are doing. After <see cref="Start"/>, from any thread.</summary>
    public FuseActivity Activity
    {
        get
        {
            if (Volatile.Read(ref _rings) is not { IsUsed: true } rings)
                return _workers.Activity;
            FuseActivity activity = rings.Activity;
            return activity with { Served = activity.Served + _workers.ServedByFirst };
        }
    }

    /// <summary>Completes when all workers have ended.</summary>
    public Task Ended => _ended.Task;

    /// <summary>Whether requests come over io_uring. Settled once <see cref="WaitForInit"/> has returned.</summary>
    public bool UsesUring => Volatile.Read(ref _rings) is { IsUsed: true };

    /// <summary>
    /// Why requests do not come over io_uring although the options ask for it, for people; null where they do, or
    /// nobody has asked. Settled once <see cref="WaitForInit"/> has returned.
    /// </summary>
    public string? UringRefusal { get; private set; }

    /// <summary>
    /// 0, or the negated error number with which the kernel refused what it had agreed to; the server then ends.
    /// </summary>
    public int UringFailure => Volatile.Read(ref _uringFailure);

    /// <summary>Creates the workers and begins to serve. Once.</summary>
    public void Start()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_started)
            throw new InvalidOperationException("the server has been started before");
        _workers.Prepare();
        if (_options.Resumption is { CanResend: true })
            Resend();

        // This method counts as a thread while it starts the others.
        _started = true;
        _threads.CountUp();
        try
        {
            if (_options.Uring)
                PrepareRings();

            // With rings one worker is left what does not come by them; the others begin if the kernel wants no rings.
            if (!Session.HasRings)
                _workers.StartTransfers(SetEnded);
            _workers.Start(0, Session.HasRings ? 1 : _workers.Count);
            Invalidator.Start();
            if (_options.Resumption is not null)
                AnnounceInit();
        }
        finally
        {
            _threads.CountDown();
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
        _workers.Stop();
        _rings?.Stop();

        // A worker may be on its way into the blocking call just when it is interrupted, hence again and again.
        do
        {
            foreach (IRequestLoop loop in Loops)
                loop.Interrupt();
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
        _rings?.Dispose();
        _workers.Dispose();
        _transport.Dispose();
        _initialised.Dispose();
    }

    private IEnumerable<IRequestLoop> Loops => _rings is null ? (IRequestLoop[])[_workers] : [_workers, _rings];

    /// <summary>
    /// Before any worker has a request of its own: one that is in work would come to a second worker too, which could
    /// answer it, and the first would go on to write long after.
    /// </summary>
    private void Resend()
    {
        FuseOutHeader message = new() { Length = FuseAbi.OutHeaderSize, Error = FuseNotifyCodes.Resend };
        int result = _transport.Notify(MemoryMarshal.AsBytes(new ReadOnlySpan<FuseOutHeader>(in message)));
        if (result < 0 && result != -Errno.ENODEV)
        {
            throw new FuseMountException(
                FuseMountError.System, $"requests in work are not sent again: {Errno.Text(-result)}");
        }
    }

    /// <summary>Makes rings and their threads and opens them. Where that fails none are left.</summary>
    private void PrepareRings()
    {
        IReadOnlyList<IFuseRing> rings = _transport.CreateRings(Session.PayloadCapacity, out string refusal);
        if (rings.Count == 0)
        {
            UringRefusal = refusal;
            return;
        }

        RingLoop loop = new(rings, Session, _threads, _longCalls, _options.Workers, AnnounceInit, Fail);
        Volatile.Write(ref _rings, loop);
        int failure = loop.Start();
        if (failure < 0)
            UringRefusal = FuseUringPlan.Describe(failure);
        else
            Session.HasRings = true;
    }

    /// <summary>Called by the one worker there is beside rings, or by any where there are none.</summary>
    private void OnInitAnswered()
    {
        if (!Session.HasRings)
        {
            AnnounceInit();
            return;
        }

        if ((Session.Features & FuseInitFlags.OverIOUring) == FuseInitFlags.OverIOUring)
        {
            _ = _rings!.TrySettle(areUsed: true);
            return;
        }

        if (!_rings!.TrySettle(areUsed: false))
            return;
        UringRefusal = "the kernel does not offer it";
        _workers.StartTransfers(SetEnded);
        _workers.Start(1, _workers.Count);
        AnnounceInit();
    }

    /// <summary>After an end before INIT there is nothing to come for the rings.</summary>
    private void OnWorkerEnded() => _ = _rings?.TrySettle(areUsed: false);

    private void OnThreadsEnded()
    {
        if (_workers.Transfers is { } transfers)
            transfers.Close();
        else
            SetEnded();
    }

    private void SetEnded()
    {
        _initialised.Set();
        _ended.SetResult();
    }

    private void AnnounceInit()
    {
        if (Interlocked.Exchange(ref _announced, 1) != 0)
            return;
        _initialised.Set();
        _options.OnInitialised?.Invoke();
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
}
