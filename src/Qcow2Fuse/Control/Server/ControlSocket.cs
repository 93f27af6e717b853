// SPDX-License-Identifier: MIT
using System.Runtime.CompilerServices;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Control.Server;

/// <summary>
/// The socket over which a running mount is controlled. A thread with a small stack waits for the first connection;
/// only then is there a web server, which takes the listening socket over. A mount that cannot have a socket works
/// without.
/// </summary>
internal sealed class ControlSocket : IDisposable
{
    private const int StackSize = 256 * 1024;
    private const int Backlog = 16;

    private readonly Lock _lock = new();
    private readonly string _path;
    private readonly int _listener;
    private readonly ControlHost _host;
    private readonly ILogger _logger;
    private readonly Thread _waiter;
    private IDisposable? _server;
    private bool _isOver;

    private ControlSocket(string path, int listener, ControlHost host, ILogger logger)
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
            HostLog.NoControl(logger, "XDG_RUNTIME_DIR is not set, and there is no /run/user/UID");
            return null;
        }

        try
        {
            ControlPath.Prepare(directory);
            ControlPath.RemoveStale(directory);
            string path = ControlPath.SocketOf(directory, Environment.ProcessId);
            return new ControlSocket(path, Listen(path), host, logger);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
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
        IDisposable? server;
        lock (_lock)
        {
            if (_isOver)
                return;
            _isOver = true;
            server = _server;
        }

        ControlPath.Remove(_path);
        _ = UnixListener.Shutdown(_listener);
        _waiter.Join();
        _host.Dispose();
        server?.Dispose();
        _ = LinuxFile.Close(_listener);
    }

    private static int Listen(string path)
    {
        // One of this name was left by a process that had the id before and was killed.
        File.Delete(path);
        int listener = UnixListener.Open(path, Backlog);
        if (listener < 0)
            throw new IOException($"{path}: {Errno.Text(-listener)}");

        // Others may go through the directory, and are not to wake anybody here, whatever the umask is.
        File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite);
        return listener;
    }

    /// <summary>Apart, so that the assemblies of the web server are not loaded before it is needed.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static IDisposable StartServer(int listener, ControlHost host) => ControlServer.Start(listener, host);

    private void Wait()
    {
        try
        {
            int result = UnixListener.Wait(_listener);
            if (result < 0)
                throw new IOException($"{_path}: {Errno.Text(-result)}");
            lock (_lock)
            {
                if (!_isOver)
                    _server = StartServer(_listener, _host);
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
