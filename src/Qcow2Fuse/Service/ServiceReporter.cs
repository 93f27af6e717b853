// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Service;

/// <summary>
/// Keeps the service manager informed from a thread of its own: that a long start or end goes on, that the workers
/// answer, and how many requests they have served. Without a service manager there is no thread.
/// </summary>
internal sealed class ServiceReporter : IDisposable
{
    /// <summary>How long an announced extension lasts, several times the period in which it is renewed.</summary>
    private static readonly TimeSpan Extension = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan Period = TimeSpan.FromSeconds(5);

    /// <summary>After so long a start or end that is still going on is left to the limits of the unit.</summary>
    private static readonly TimeSpan ExtensionMax = TimeSpan.FromMinutes(30);

    private readonly object _gate = new();
    private readonly ILogger _logger;
    private readonly TimeSpan? _watchdog = ServiceNotifier.WatchdogPeriod;
    private readonly Thread? _thread;

    private FuseServer? _server;
    private FuseActivity _seen;
    private string _description = "";
    private string _status = "";
    private DateTime _extendUntil = DateTime.UtcNow + ExtensionMax;
    private bool _isTransient = true;
    private bool _isOver;
    private bool _hasFailed;

    /// <summary>Begins to report a start.</summary>
    public ServiceReporter(ILogger logger)
    {
        _logger = logger;
        if (!ServiceNotifier.IsPresent)
            return;
        _thread = new Thread(Work) { IsBackground = true, Name = "service" };
        _thread.Start();
    }

    /// <summary>Says that the mount answers, and reports on the server from now on.</summary>
    /// <param name="server">Its workers are watched.</param>
    /// <param name="description">What is mounted where, for people.</param>
    /// <exception cref="SocketException">The service manager cannot be told; it would end the daemon.</exception>
    public void Ready(FuseServer server, string description)
    {
        lock (_gate)
        {
            _server = server;
            _description = description;
            _isTransient = false;
            _seen = server.Activity;
            ServiceNotifier.Ready(description);
        }
    }

    /// <summary>Says that the settings are looked at again, and that this is done.</summary>
    public void Reloaded()
    {
        lock (_gate)
        {
            TrySend(ServiceNotifier.Reloading);
            TrySend(() => ServiceNotifier.Ready(_description));
            _status = _description;
        }
    }

    /// <summary>Says that the end has begun; the manager is asked for patience until it is over.</summary>
    /// <param name="handsOver">Whether another process goes on with the mount.</param>
    public void Stopping(bool handsOver = false)
    {
        lock (_gate)
        {
            _isTransient = true;
            _server = null;
            _extendUntil = DateTime.UtcNow + ExtensionMax;
            TrySend(handsOver ? ServiceNotifier.HandingOver : ServiceNotifier.Stopping);
            TrySend(static () => ServiceNotifier.Extend(Extension));
        }
    }

    /// <summary>Says whom the end waits for.</summary>
    public void Waiting(string status)
    {
        lock (_gate)
            TrySend(() => ServiceNotifier.Status(status));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_gate)
        {
            _isOver = true;
            Monitor.PulseAll(_gate);
        }

        _thread?.Join();
    }

    private void Work()
    {
        // Twice as often as it is asked for, so that a late thread is not taken for a dead one.
        TimeSpan period = _watchdog / 2 is { } half && half < Period ? half : Period;
        lock (_gate)
        {
            while (!_isOver)
            {
                // What takes less than a period is not worth a message.
                Monitor.Wait(_gate, period);
                if (_isOver)
                    return;
                Guarded.Run(
                    _isTransient ? ReportTransient : ReportServing,
                    failure => HostLog.WorkFailed(_logger, "service manager", failure));
            }
        }
    }

    private void ReportTransient()
    {
        if (DateTime.UtcNow < _extendUntil)
            TrySend(static () => ServiceNotifier.Extend(Extension));
    }

    private void ReportServing()
    {
        FuseActivity now = _server?.Activity ?? default;
        if (_watchdog is not null && !now.IsStuckSince(_seen))
            TrySend(ServiceNotifier.Watchdog);
        _seen = now;
        string work = now.Busy > 0 ? string.Create(CultureInfo.InvariantCulture, $", {now.Busy} in work") : "";
        string status = string.Create(CultureInfo.InvariantCulture, $"{_description}: {now.Served} requests{work}");
        if (!string.Equals(status, _status, StringComparison.Ordinal))
            TrySend(() => ServiceNotifier.Status(status));
        _status = status;
    }

    /// <summary>A manager that does not hear costs the service its reports, not the image its last flush.</summary>
    private void TrySend(Action send)
    {
        try
        {
            send();
        }
        catch (SocketException exception)
        {
            if (!_hasFailed)
                HostLog.NotHeard(_logger, exception.Message);
            _hasFailed = true;
        }
    }
}
