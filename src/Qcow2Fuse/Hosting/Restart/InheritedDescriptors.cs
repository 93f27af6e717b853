// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Restart;

/// <summary>
/// The descriptors that the service manager kept for this service and passes on (sd_listen_fds(3)), by their names.
/// </summary>
internal static class InheritedDescriptors
{
    private const int First = 3;

    /// <summary>
    /// Takes those whose names begin with <paramref name="prefix"/>; they are closed on exec from now on. Once.
    /// </summary>
    public static List<(string Name, int Descriptor)> Take(string prefix)
    {
        List<(string, int)> taken = [];
        string[] names = (Environment.GetEnvironmentVariable("LISTEN_FDNAMES") ?? "").Split(':');
        string process = Environment.ProcessId.ToString(CultureInfo.InvariantCulture);
        bool isMeant =
            string.Equals(Environment.GetEnvironmentVariable("LISTEN_PID"), process, StringComparison.Ordinal);
        if (!isMeant || !int.TryParse(
            Environment.GetEnvironmentVariable("LISTEN_FDS"), CultureInfo.InvariantCulture, out int count))
        {
            return taken;
        }

        for (int i = 0; i < Math.Min(count, names.Length); i++)
        {
            if (!names[i].StartsWith(prefix, StringComparison.Ordinal))
                continue;
            _ = LinuxFile.CloseOnExec(First + i);
            taken.Add((names[i], First + i));
        }

        return taken;
    }
}
