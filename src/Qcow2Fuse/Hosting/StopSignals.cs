// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Hosting;

/// <summary>The signals that ask a daemon to end: SIGTERM, SIGINT, SIGHUP and SIGQUIT.</summary>
internal sealed class StopSignals : IDisposable
{
    private readonly SemaphoreSlim _received = new(initialCount: 0);
    private readonly PosixSignalRegistration[] _registrations;

    /// <summary>From now on the signals no longer end the process.</summary>
    public StopSignals()
    {
        PosixSignal[] signals = [PosixSignal.SIGTERM, PosixSignal.SIGINT, PosixSignal.SIGHUP, PosixSignal.SIGQUIT];
        _registrations = [.. signals.Select(signal => PosixSignalRegistration.Create(signal, Receive))];
    }

    /// <summary>Returns when a signal arrives or <paramref name="ended"/> completes.</summary>
    public void WaitFor(Task ended) => WaitAgainFor(ended, Timeout.InfiniteTimeSpan);

    /// <summary>As <see cref="WaitFor"/>, for one more signal, and at most so long.</summary>
    public void WaitAgainFor(Task ended, TimeSpan patience)
    {
        using CancellationTokenSource enough = new();
        Task signal = _received.WaitAsync(patience, enough.Token);
        _ = Task.WaitAny(ended, signal);
        enough.Cancel();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (PosixSignalRegistration registration in _registrations)
            registration.Dispose();
        _received.Dispose();
    }

    private void Receive(PosixSignalContext context)
    {
        context.Cancel = true;
        _received.Release();
    }
}
