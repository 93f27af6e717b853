// SPDX-License-Identifier: MIT
using System.Net.Sockets;
using System.Text;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// Tells the service manager what state the daemon is in (sd_notify(3)). Without one it does nothing.
/// </summary>
internal static class ServiceNotifier
{
    /// <summary>Whether there is a service manager that listens.</summary>
    public static bool IsPresent => !string.IsNullOrEmpty(Environment.GetEnvironmentVariable("NOTIFY_SOCKET"));

    /// <summary>The mount answers.</summary>
    public static void Ready(string status) => Send($"READY=1\nSTATUS={status}\nMAINPID={Environment.ProcessId}");

    /// <summary>
    /// The daemon is on its way out, and may need <paramref name="allowance"/> to write what is left.
    /// </summary>
    public static void Stopping(TimeSpan allowance) =>
        Send($"STOPPING=1\nSTATUS=writing the image\nEXTEND_TIMEOUT_USEC={(long)allowance.TotalMicroseconds}");

    private static void Send(string state)
    {
        string? address = Environment.GetEnvironmentVariable("NOTIFY_SOCKET");
        if (string.IsNullOrEmpty(address))
            return;

        // "@" stands for the NUL of Linux's abstract socket names.
        if (address[0] == '@')
            address = '\0' + address[1..];
        using Socket socket = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        socket.SendTo(Encoding.UTF8.GetBytes(state), new UnixDomainSocketEndPoint(address));
    }
}
