// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using System.Text;
using Mono.Unix.Native;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Restart;

/// <summary>
/// A service manager as far as its descriptor store goes (sd_notify(3), sd_listen_fds(3)): it keeps what a daemon
/// sends, through its death, and starts the next one with it.
/// </summary>
internal sealed class FakeManager : IDisposable
{
    /// <summary>What the daemon ends with when it has left the mount to the next one.</summary>
    public const int HandedOver = 75;

    private const int FirstDescriptor = 3;
    private const int FirstSpare = 700;
    private static readonly TimeSpan Patience = Eventually.Patience;

    private readonly string _address;
    private readonly Socket _socket;
    private readonly Thread _listener;
    private readonly List<(string Name, int Descriptor)> _store = [];
    private readonly List<string> _messages = [];
    private readonly StringBuilder _log = new();
    private Process? _daemon;

    public FakeManager(string address)
    {
        _address = address;
        _socket = new Socket(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        _socket.Bind(new UnixDomainSocketEndPoint(address));
        _listener = new Thread(Listen) { IsBackground = true };
        _listener.Start();
    }

    /// <summary>Whether descriptors are kept at all.</summary>
    public bool Keeps { get; init; } = true;

    /// <summary>What is added to the daemon's environment.</summary>
    public Dictionary<string, string> Environment { get; } = [];

    /// <summary>The daemon's process id.</summary>
    public int ProcessId => _daemon!.Id;

    /// <summary>What the daemons have logged.</summary>
    public string Log
    {
        get
        {
            lock (_log)
                return _log.ToString();
        }
    }

    /// <summary>The names of what is kept.</summary>
    public string[] Names
    {
        get
        {
            lock (_store)
                return [.. _store.Select(static kept => kept.Name)];
        }
    }

    /// <summary>Starts a daemon with all that is kept, and waits until it is ready.</summary>
    public void Start(string program, params string[] arguments)
    {
        Launch(program, arguments);
        WaitForMessage("READY=1");
    }

    /// <summary>Starts a daemon with all that is kept.</summary>
    public void Launch(string program, params string[] arguments)
    {
        lock (_messages)
            _messages.Clear();
        (string Name, int Descriptor)[] kept;
        lock (_store)
            kept = [.. _store];
        StringBuilder script = new();
        for (int i = 0; i < kept.Length; i++)
        {
            script.Append(
                CultureInfo.InvariantCulture, $"exec {FirstDescriptor + i}<&{FirstSpare + i} {FirstSpare + i}<&-\n");
        }

        if (kept.Length > 0)
        {
            script.Append(CultureInfo.InvariantCulture, $"export LISTEN_PID=$$ LISTEN_FDS={kept.Length}\n");
            script.Append("export LISTEN_FDNAMES=").AppendJoin(':', kept.Select(static one => one.Name)).Append('\n');
        }

        script.Append("exec \"$@\"\n");
        ProcessStartInfo start = new("bash") { RedirectStandardError = true };
        foreach (string argument in (string[])["-c", script.ToString(), "manager", program, .. arguments])
            start.ArgumentList.Add(argument);
        start.Environment["NOTIFY_SOCKET"] = _address;
        foreach ((string name, string value) in Environment)
            start.Environment[name] = value;

        // A duplicate is not closed on exec. No other test starts a process meanwhile.
        for (int i = 0; i < kept.Length; i++)
            Assert.True(Syscall.dup2(kept[i].Descriptor, FirstSpare + i) >= 0);
        _daemon = Process.Start(start)!;
        for (int i = 0; i < kept.Length; i++)
            _ = LinuxFile.Close(FirstSpare + i);
        _daemon.ErrorDataReceived += (_, line) =>
        {
            lock (_log)
                _log.AppendLine(line.Data);
        };
        _daemon.BeginErrorReadLine();
    }

    /// <summary>Waits until the daemon has sent a line.</summary>
    public void WaitForMessage(string line)
    {
        bool isSaid = false;
        Eventually.Comes(() => _daemon!.HasExited | (isSaid = HasSaid(line)));
        if (!isSaid && !HasSaid(line))
            throw new TimeoutException($"the daemon has not said {line}\n{Log}");
    }

    /// <summary>Waits until the log holds a text.</summary>
    public void ShouldLog(string text)
    {
        bool isLogged = Eventually.Comes(() => Log.Contains(text, StringComparison.Ordinal));
        Assert.True(isLogged, $"not logged: {text}\n{Log}");
    }

    private bool HasSaid(string line)
    {
        lock (_messages)
            return _messages.Contains(line, StringComparer.Ordinal);
    }

    /// <summary>Sends a signal to the daemon and waits until it has ended.</summary>
    /// <returns>Its exit code.</returns>
    public int End(string signal)
    {
        string process = ProcessId.ToString(CultureInfo.InvariantCulture);
        ProcessRunner.Run("/bin/kill", ["-" + signal, process]).ShouldSucceed();
        return WaitForEnd();
    }

    /// <summary>Waits until the daemon has ended.</summary>
    /// <returns>Its exit code.</returns>
    public int WaitForEnd()
    {
        if (!_daemon!.WaitForExit(Patience))
            throw new TimeoutException($"the daemon does not end\n{Log}");
        _daemon.WaitForExit();
        int exitCode = _daemon.ExitCode;
        _daemon.Dispose();
        _daemon = null;
        return exitCode;
    }

    /// <summary>Closes what is kept, as a manager does when a service has ended.</summary>
    public void Drop()
    {
        lock (_store)
        {
            foreach ((_, int descriptor) in _store)
                _ = LinuxFile.Close(descriptor);
            _store.Clear();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_daemon is not null)
        {
            _daemon.Kill();
            _daemon.WaitForExit();
            _daemon.Dispose();
        }

        using (Socket last = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified))
            last.SendTo("END"u8, new UnixDomainSocketEndPoint(_address));
        _listener.Join();
        _socket.Dispose();
        Drop();
    }

    private void Listen()
    {
        byte[] message = new byte[4096];
        int[] descriptors = new int[DescriptorSocket.DescriptorsMax];
        while (true)
        {
            int length = DescriptorSocket.Receive((int)_socket.Handle, message, descriptors, out int count);
            if (length < 0)
                return;
            string[] lines = Encoding.UTF8.GetString(message, 0, length).Split('\n');
            if (lines is ["END"])
                return;
            Change(lines, descriptors.AsSpan(0, count));
            lock (_messages)
                _messages.AddRange(lines);
        }
    }

    private void Change(string[] lines, ReadOnlySpan<int> descriptors)
    {
        string? name = lines.FirstOrDefault(static line => line.StartsWith("FDNAME=", StringComparison.Ordinal))?[7..];
        bool stores = Keeps && lines.Contains("FDSTORE=1", StringComparer.Ordinal)
            && lines.Contains("FDPOLL=0", StringComparer.Ordinal);
        lock (_store)
        {
            foreach (int descriptor in descriptors)
            {
                if (stores)
                    _store.Add((name ?? "stored", descriptor));
                else
                    _ = LinuxFile.Close(descriptor);
            }

            if (!lines.Contains("FDSTOREREMOVE=1", StringComparer.Ordinal))
                return;
            foreach ((_, int descriptor) in _store.Where(kept => kept.Name == name))
                _ = LinuxFile.Close(descriptor);
            _store.RemoveAll(kept => kept.Name == name);
        }
    }
}
