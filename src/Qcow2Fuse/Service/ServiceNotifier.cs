// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using System.Text;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;

namespace Qcow2Fuse.Service;

/// <summary>
/// Messages to the service manager about the state of the daemon (sd_notify(3)). Without one they go nowhere.
/// </summary>
internal static class ServiceNotifier
{
    /// <summary>Whether there is a service manager that listens.</summary>
    public static bool IsPresent => !string.IsNullOrEmpty(Environment.GetEnvironmentVariable("NOTIFY_SOCKET"));

    /// <summary>
    /// How often the manager wants to hear <see cref="Watchdog"/>; null where it does not watch this process.
    /// </summary>
    public static TimeSpan? WatchdogPeriod
    {
        get
        {
            string? process = Environment.GetEnvironmentVariable("WATCHDOG_PID");
            bool isMeant = string.IsNullOrEmpty(process)
                || string.Equals(
                    process, Environment.ProcessId.ToString(CultureInfo.InvariantCulture), StringComparison.Ordinal);
            return isMeant && long.TryParse(
                Environment.GetEnvironmentVariable("WATCHDOG_USEC"), CultureInfo.InvariantCulture, out long period)
                && period > 0
                    ? TimeSpan.FromMicroseconds(period)
                    : null;
        }
    }

    /// <summary>How many descriptors the manager keeps; null where it does not say (systemd before 254).</summary>
    public static int? StoreCapacity =>
        int.TryParse(Environment.GetEnvironmentVariable("FDSTORE"), CultureInfo.InvariantCulture, out int capacity)
            ? capacity
            : null;

    /// <summary>The mount answers.</summary>
    public static void Ready(string status) => Send(
        ("READY", "1"), ("STATUS", status),
        ("MAINPID", Environment.ProcessId.ToString(CultureInfo.InvariantCulture)));

    /// <summary>A line for <c>systemctl status</c>.</summary>
    public static void Status(string status) => Send(("STATUS", status));

    /// <summary>The workers answer.</summary>
    public static void Watchdog() => Send(("WATCHDOG", "1"));

    /// <summary>Settings are looked at again; to be followed by <see cref="Ready"/>.</summary>
    public static void Reloading()
    {
        long microseconds = (long)(Stopwatch.GetTimestamp() * 1e6 / Stopwatch.Frequency);
        Send(("RELOADING", "1"), ("MONOTONIC_USEC", microseconds.ToString(CultureInfo.InvariantCulture)));
    }

    /// <summary>The daemon is on its way out.</summary>
    public static void Stopping() => Send(("STOPPING", "1"), ("STATUS", "writing the image"));

    /// <summary>Another process of the service will go on.</summary>
    public static void HandingOver() => Send(("STATUS", "handing over to the next process"));

    /// <summary>The start or the end goes on for up to <paramref name="allowance"/> from now.</summary>
    public static void Extend(TimeSpan allowance) =>
        Send((
        "EXTEND_TIMEOUT_USEC", ((long)allowance.TotalMicroseconds).ToString(CultureInfo.InvariantCulture)));

    /// <summary>The manager keeps descriptors under a name, also when this process dies. Each message has some of them.
    /// </summary>
    /// <exception cref="SocketException">The service manager cannot be told.</exception>
    public static void Store(string name, ReadOnlySpan<int> descriptors)
    {
        using Socket? socket = Connect();
        if (socket is null)
            return;

        // Unasked, the manager would poll the descriptors, and each request of the kernel would wake it.
        byte[] message = Message(("FDSTORE", "1"), ("FDPOLL", "0"), ("FDNAME", name));
        while (!descriptors.IsEmpty)
        {
            int count = Math.Min(descriptors.Length, DescriptorSocket.DescriptorsMax);
            int result = DescriptorSocket.Send((int)socket.Handle, message, descriptors[..count]);
            if (result < 0)
                throw new SocketException((int)SocketError.SocketError, Errno.Text(-result));
            descriptors = descriptors[count..];
        }
    }

    /// <summary>The manager closes the descriptors it keeps under a name.</summary>
    public static void Forget(string name) => Send(("FDSTOREREMOVE", "1"), ("FDNAME", name));

    private static void Send(params ReadOnlySpan<(string Name, string Value)> fields)
    {
        using Socket? socket = Connect();
        socket?.Send(Message(fields));
    }

    /// <summary>One field a line: what a value has of other lines is not to become fields.</summary>
    private static byte[] Message(params ReadOnlySpan<(string Name, string Value)> fields)
    {
        StringBuilder message = new();
        foreach ((string name, string value) in fields)
            message.Append(message.Length > 0 ? "\n" : "").Append(name).Append('=').Append(Printable.Text(value));
        return Encoding.UTF8.GetBytes(message.ToString());
    }

    private static Socket? Connect()
    {
        string? address = Environment.GetEnvironmentVariable("NOTIFY_SOCKET");
        if (string.IsNullOrEmpty(address))
            return null;

        // "@" stands for the NUL of Linux's abstract socket names.
        if (address[0] == '@')
            address = '\0' + address[1..];
        Socket socket = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(address));
            return socket;
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }
}
