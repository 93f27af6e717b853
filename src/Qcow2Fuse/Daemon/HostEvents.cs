// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Daemon;

/// <summary>What happens to a daemon from outside.</summary>
internal enum HostEvent
{
    /// <summary>The mount has gone, and all requests are answered.</summary>
    Ended,

    /// <summary>A signal asks it to end.</summary>
    Stop,

    /// <summary>SIGUSR2 asks it to leave the mount to another process.</summary>
    HandOver,

    /// <summary>SIGHUP asks it to look at its settings again.</summary>
    Reload,

    /// <summary>SIGUSR1 asks for what the mount did so far.</summary>
    Report,

    /// <summary>The last open file of the mount has been closed.</summary>
    Unused,

    /// <summary>Nothing, for as long as was waited.</summary>
    None,
}

/// <summary>
/// The queue of what a daemon has to react to: signals (SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1) and
/// the state of its mount.
/// </summary>
internal sealed class HostEvents : IDisposable
{
    /// <summary>The number of SIGUSR1, for which the runtime has no name.</summary>
    private const PosixSignal UserSignal = (PosixSignal)10;

    /// <summary>SIGUSR2, for which the runtime has no name.</summary>
    private const PosixSignal HandOverSignal = (PosixSignal)12;

    private readonly object _gate = new();
    private readonly Queue<HostEvent> _queue = new();
    private readonly PosixSignalRegistration[] _registrations;

    /// <summary>From now on the signals no longer end the process.</summary>
    /// <param name="hangupStops">SIGHUP means that the terminal is gone, and not to reload.</param>
    /// <param name="handsOver">SIGUSR2 means to leave the mount to another process.</param>
    public HostEvents(bool hangupStops, bool handsOver)
    {
        PosixSignal[] signals = [PosixSignal.SIGTERM, PosixSignal.SIGINT, PosixSignal.SIGQUIT];
        _registrations =
        [
            .. signals.Select(signal => Register(signal, HostEvent.Stop)),
            Register(PosixSignal.SIGHUP, hangupStops ? HostEvent.Stop : HostEvent.Reload),
            Register(UserSignal, HostEvent.Report),
            .. handsOver ? (PosixSignalRegistration[])[Register(HandOverSignal, HostEvent.HandOver)] : [],
        ];
    }

    /// <summary>Adds an event. Never blocks.</summary>
    public void Post(HostEvent happened)
    {
        lock (_gate)
        {
            _queue.Enqueue(happened);
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Posts <see cref="HostEvent.Ended"/> when <paramref name="ended"/> completes.</summary>
    public void Watch(Task ended) => _ = ended.ContinueWith(_ => Post(HostEvent.Ended), TaskScheduler.Default);

    /// <summary>The next event; waits for one.</summary>
    public HostEvent Take() => Take(Timeout.InfiniteTimeSpan);

    /// <summary>The next event, or <see cref="HostEvent.None"/> when none has come after so long.</summary>
    public HostEvent Take(TimeSpan patience)
    {
        lock (_gate)
        {
            while (_queue.Count == 0)
            {
                if (!Monitor.Wait(_gate, patience))
                    return HostEvent.None;
            }

            return _queue.Dequeue();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (PosixSignalRegistration registration in _registrations)
            registration.Dispose();
    }

    private PosixSignalRegistration Register(PosixSignal signal, HostEvent meaning) =>
        PosixSignalRegistration.Create(signal, context =>
        {
            context.Cancel = true;
            Post(meaning);
        });
}
