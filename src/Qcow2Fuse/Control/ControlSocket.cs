// SPDX-License-Identifier: MIT
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Hosting;

namespace Qcow2Fuse.Control;

/// <summary>
/// The socket over which a running mount is controlled. A thread with a small stack waits for the first connection;
/// only then is there a web server, which takes the listening socket over. A mount that cannot have a socket works
/// without.
/// </summary>
internal sealed class ControlSocket : IDisposable
{
    private const int StackSize = 256 * 1024;
    private const int Backlog = 16;
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite;

    private readonly Lock _lock = new();
    private readonly string _path;
    private readonly Socket _listener;
    private readonly ControlHost _host;
    private readonly ILogger _logger;
    private readonly Thread _waiter;
    private ControlServer? _server;
    private bool _isOver;

    private ControlSocket(string path, Socket listener, ControlHost host, ILogger logger)
    {
        _path = path;
        _listener = listener;
        _host = host;
        _logger = logger;
        _waiter = new Thread(Wait, StackSize) { IsBackground = true, Name = "control" };
        _waiter.Start();
    }

    /// <summary>Begins to listen; null, with a line in the log, where that is not possible.</summary>
    /// <param name="host">What is controlled.</param>
    /// <param name="logger">The daemon's log.</param>
    public static ControlSocket? TryOpen(ControlHost host, ILogger logger)
    {
        if (ControlPath.Directory is not { } directory)
        {
            HostLog.NoControl(logger, "XDG_RUNTIME_DIR is not set");
            return null;
        }

        try
        {
            ControlPath.Prepare(directory);
            ControlPath.RemoveStale(directory);
            string path = ControlPath.SocketOf(directory, Environment.ProcessId);
            return new ControlSocket(path, Listen(path), host, logger);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException or SocketException
            or ArgumentException)
        {
            HostLog.NoControl(logger, exception.Message);
            return null;
        }
    }

    /// <summary>
    /// Refuses what comes from now on, and waits until what was asked for is done. The images are open until then.
    /// </summary>
    public void Dispose()
    {
        ControlServer? server;
        lock (_lock)
        {
            if (_isOver)
                return;
            _isOver = true;
            server = _server;
        }

        ControlPath.Remove(_path);
        if (server is null)
        {
            // Wakes the thread that waits for a connection.
            _listener.Shutdown(SocketShutdown.Both);
            _waiter.Join();
        }

        server?.Dispose();
        _host.Dispose();
        _listener.Dispose();
    }

    private static Socket Listen(string path)
    {
        // One of this name was left by a process that had the id before and was killed.
        File.Delete(path);
        Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            listener.Bind(new UnixDomainSocketEndPoint(path));
            File.SetUnixFileMode(path, OwnerOnly);
            listener.Listen(Backlog);
            return listener;
        }
        catch
        {
            listener.Dispose();
            throw;
        }
    }

    private void Wait()
    {
        try
        {
            _ = _listener.Poll(Timeout.InfiniteTimeSpan, SelectMode.SelectRead);
            lock (_lock)
            {
                if (!_isOver)
                    _server = ControlServer.Start(_listener, _host);
            }
        }
        catch (Exception exception)
        {
            // The mount goes on without control.
            ControlPath.Remove(_path);
            HostLog.ControlFailed(_logger, exception.Message);
        }
    }
}
