// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using System.Text;
using System.Text.RegularExpressions;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>The program as a service of systemd, with a notification socket of the test.</summary>
public sealed class ServiceTests : MountTest
{
    private static readonly TimeSpan NotifyTimeout = Eventually.Patience;

    [SkippableFact]
    public void The_service_manager_hears_of_start_and_stop()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        using Socket socket = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        socket.ReceiveTimeout = (int)NotifyTimeout.TotalMilliseconds;
        socket.Bind(new UnixDomainSocketEndPoint(PathOf("notify")));
        using Process daemon = Start(image, mountPoint);

        _ = Await(socket, "READY=1");
        Assert.True(File.Exists(RawFileOf(image, mountPoint)), "ready before the file answers");

        Signal(daemon.Id, "TERM");
        _ = Await(socket, "STOPPING=1");
        Assert.True(daemon.WaitForExit(NotifyTimeout), "the daemon does not end");
        Assert.Equal(0, daemon.ExitCode);
    }

    [SkippableFact]
    public void A_hangup_is_a_reload_and_no_end()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        using Socket socket = Listen();
        using Process daemon = Start(image, mountPoint);
        _ = Await(socket, "READY=1");

        Signal(daemon.Id, "HUP");
        Assert.Contains(
            Await(socket, "RELOADING=1"), static line => line.StartsWith("MONOTONIC_USEC=", StringComparison.Ordinal));
        _ = Await(socket, "READY=1");
        Assert.True(File.Exists(RawFileOf(image, mountPoint)));
        End(daemon);
    }

    [SkippableFact]
    public void The_status_counts_requests()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        using Socket socket = Listen();
        using Process daemon = Start(image, mountPoint, ("WATCHDOG_USEC", "400000"));
        Assert.Contains(
            $"STATUS=disk.qcow2 (64 MiB) on {mountPoint}",
            Await(socket, "READY=1").Single(static line => line[0] == 'S'));
        Tool("dd", "if=" + RawFileOf(image, mountPoint), "of=/dev/null", "bs=4k", "iflag=direct", "count=1000");
        int served = 0;
        WaitUntil(
            () =>
            {
                Match status = Regex.Match(string.Join('\n', Receive(socket)), "STATUS=.*: ([0-9]+) requests");
                served = status.Success ? int.Parse(status.Groups[1].Value, CultureInfo.InvariantCulture) : served;
                return served >= 1000;
            },
            "the requests are not counted");
        Assert.InRange(served, 1000, 1200);
        End(daemon);
    }

    [SkippableFact]
    public void The_watchdog_hears_while_workers_answer_and_only_then()
    {
        // The inner image lies on the outer mount, whose daemon is stopped: then the inner worker waits for it.
        string inner = NewImage("16M", name: "inner.qcow2");
        string outerPoint = NewMountPoint("outer");
        string image = Mount(NewImage(), outerPoint);
        Tool("dd", "if=" + inner, "of=" + image, "conv=notrunc", "status=none");
        int outer = Assert.Single(DaemonsOf(outerPoint));
        string mountPoint = NewMountPoint();
        using Socket socket = Listen();
        using Process daemon = Start(
            image, mountPoint, ("WATCHDOG_USEC", "400000"), ("QCOW2FUSE_THREADS", "1"), ("QCOW2FUSE_CACHE", "none"));
        Process? writer = null;
        try
        {
            _ = Await(socket, "WATCHDOG=1");
            StopProcess(outer);
            string raw = Path.Combine(mountPoint, "disk.raw");
            writer = Process.Start(
                "dd", ["if=/dev/zero", "of=" + raw, "bs=4k", "count=1", "oflag=direct", "conv=notrunc", "status=none"]);
            WaitUntil(() => IsSilent(socket), "it speaks although its worker is stuck");
            Signal(outer, "CONT");
            _ = Await(socket, "WATCHDOG=1");
        }
        finally
        {
            Signal(outer, "CONT");
            writer?.WaitForExit();
            writer?.Dispose();
        }

        End(daemon);
        Unmount(outerPoint);
    }

    [SkippableFact]
    public void A_slow_start_and_every_end_ask_for_time()
    {
        // The image lies on the outer mount, whose daemon is stopped: the inner one cannot open it.
        string inner = NewImage("16M", name: "inner.qcow2");
        string outerPoint = NewMountPoint("outer");
        string image = Mount(NewImage(), outerPoint);
        Tool("dd", "if=" + inner, "of=" + image, "conv=notrunc", "status=none");
        int outer = Assert.Single(DaemonsOf(outerPoint));
        using Socket socket = Listen();
        StopProcess(outer);
        using Process daemon = Start(
            image, NewMountPoint(), ("WATCHDOG_USEC", "400000"), ("QCOW2FUSE_CACHE", "none"));
        try
        {
            _ = Await(socket, "EXTEND_TIMEOUT_USEC=30000000");
        }
        finally
        {
            Signal(outer, "CONT");
        }

        _ = Await(socket, "READY=1");
        Signal(daemon.Id, "TERM");
        _ = Await(socket, "STOPPING=1");
        _ = Await(socket, "EXTEND_TIMEOUT_USEC=30000000");
        Assert.True(daemon.WaitForExit(NotifyTimeout), "the daemon does not end");
        Assert.Equal(0, daemon.ExitCode);
        Unmount(outerPoint);
    }

    private Socket Listen()
    {
        Socket socket = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified)
        { ReceiveTimeout = (int)NotifyTimeout.TotalMilliseconds };
        socket.Bind(new UnixDomainSocketEndPoint(PathOf("notify")));
        return socket;
    }

    private static void End(Process daemon)
    {
        Signal(daemon.Id, "TERM");
        Assert.True(daemon.WaitForExit(NotifyTimeout), "the daemon does not end");
        Assert.Equal(0, daemon.ExitCode);
    }

    private Process Start(string image, string mountPoint, params (string Name, string Value)[] environment)
    {
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");

        // Whoever runs the tests may ignore hangups, as nohup(1) does, and what he starts does so too.
        ProcessStartInfo start = new("env", ["--default-signal=HUP", program!, "mount", "--foreground"])
        { UseShellExecute = false };
        start.Environment["NOTIFY_SOCKET"] = PathOf("notify");
        start.Environment["QCOW2FUSE_SOURCE"] = image;
        start.Environment["QCOW2FUSE_DIRECTORY"] = mountPoint;
        foreach ((string name, string value) in environment)
            start.Environment[name] = value;
        return Process.Start(start)!;
    }

    /// <summary>
    /// The message that has a line. Others may come before it: a slow daemon asks for time and says how it is.
    /// </summary>
    private static string[] Await(Socket socket, string line)
    {
        string[] message;
        do
            message = Receive(socket);
        while (!message.Contains(line, StringComparer.Ordinal));
        return message;
    }

    private static string[] Receive(Socket socket)
    {
        byte[] message = new byte[4096];
        return Encoding.UTF8.GetString(message, 0, socket.Receive(message)).Split('\n');
    }

    /// <summary>
    /// Whether no word for the watchdog comes in four times the limit of 400 ms: a daemon that is well has said it
    /// eight times, if it was given a processor; else the next look sees it speak.
    /// </summary>
    private static bool IsSilent(Socket socket)
    {
        while (socket.Poll(1_600_000, SelectMode.SelectRead))
        {
            if (Receive(socket).Contains("WATCHDOG=1", StringComparer.Ordinal))
                return false;
        }

        return true;
    }
}
