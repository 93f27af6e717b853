// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Net.Sockets;
using System.Text;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Output;

/// <summary>
/// A log to the system's log daemon, in the form of syslog(3): RFC 3164 without a host name, as datagrams to /dev/log.
/// </summary>
/// <remarks>
/// Each message is sent to the path anew, so that a log daemon may come, go and be replaced. A message that cannot be
/// delivered at once is dropped: a daemon that serves a disk must not wait for one that may write its log to this disk.
/// </remarks>
internal sealed class SyslogLogger : LineLogger
{
    /// <summary>Names another socket than <see cref="DefaultPath"/>.</summary>
    public const string PathVariable = "QCOW2FUSE_LOG_SOCKET";

    private const string DefaultPath = "/dev/log";
    private const int DaemonFacility = 3;

    private readonly UnixDomainSocketEndPoint? _daemon;

    /// <summary>A log of messages of this level and above.</summary>
    public SyslogLogger(LogLevel least)
        : base(least)
    {
        string? path = Environment.GetEnvironmentVariable(PathVariable);
        try
        {
            _daemon = new UnixDomainSocketEndPoint(string.IsNullOrEmpty(path) ? DefaultPath : path);
        }
        catch (ArgumentException)
        {
            // No socket has so long a name.
            _daemon = null;
        }
    }

    /// <inheritdoc/>
    protected override void Write(LogLevel level, string text)
    {
        if (_daemon is null)
            return;
        int priority = (DaemonFacility * 8) + SyslogPriority.Of(level);
        DateTime now = DateTime.Now;
        string line = string.Create(
            CultureInfo.InvariantCulture,
            $"<{priority}>{now:MMM} {now.Day,2} {now:HH:mm:ss} {Report.ProgramName}[{Environment.ProcessId}]: ");
        try
        {
            using Socket socket = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified)
            { Blocking = false };
            socket.SendTo(Encoding.UTF8.GetBytes(line + Printable.Text(text)), _daemon);
        }
        catch (SocketException)
        {
            // Nobody listens, or not fast enough.
        }
    }
}
