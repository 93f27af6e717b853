// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.Fuse;
using Qcow2Fuse.Linux;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Stacks;

/// <summary>
/// Which process serves which mount. The kernel tells for every descriptor of /dev/fuse to which connection it belongs
/// (fuse_connection in /proc/PID/fdinfo), and a connection has the number of its mount's device. Older kernels do not;
/// there it is the one process that has both /dev/fuse and the image open. Other users' processes are not seen.
/// </summary>
internal sealed class DaemonTable
{
    private const string DevicePath = "/dev/fuse";
    private const string ConnectionField = "fuse_connection:";

    private static readonly TimeSpan Period = TimeSpan.FromMilliseconds(20);

    private readonly List<Candidate> _candidates = [];

    private DaemonTable()
    {
    }

    /// <summary>Looks at all processes.</summary>
    public static DaemonTable Read()
    {
        DaemonTable table = new();
        foreach (string directory in Directory.EnumerateDirectories("/proc"))
        {
            if (int.TryParse(Path.GetFileName(directory), CultureInfo.InvariantCulture, out int id)
                && Look(directory, id) is { } candidate)
            {
                table._candidates.Add(candidate);
            }
        }

        return table;
    }

    /// <summary>Whether a process has not ended; one that only waits for its parent to take notice has.</summary>
    public static bool IsRunning(int process)
    {
        try
        {
            // The name before the state is in parentheses and may hold any character.
            string stat = File.ReadAllText(string.Create(CultureInfo.InvariantCulture, $"/proc/{process}/stat"));
            int end = stat.LastIndexOf(')');
            return end + 2 < stat.Length && stat[end + 2] is not ('Z' or 'X');
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>
    /// Waits until a daemon whose mount was taken away has ended: umount(2) returns before it has written everything.
    /// </summary>
    /// <exception cref="CommandException">It has not after so long.</exception>
    public static void WaitForEnd(int daemon, string image, TimeSpan patience)
    {
        Stopwatch waited = Stopwatch.StartNew();
        while (IsRunning(daemon))
        {
            if (waited.Elapsed > patience)
                throw new CommandException(ExitCode.Failure, $"{image}: is unmounted, but still being written");
            Thread.Sleep(Period);
        }
    }

    /// <summary>The process that serves a mount; null where none does, or it cannot be seen.</summary>
    public int? Find(MountEntry mount)
    {
        string minor = mount.Device[(mount.Device.IndexOf(':', StringComparison.Ordinal) + 1)..];
        if (_candidates.Exists(static candidate => candidate.Connections.Count > 0))
        {
            // A helper or the service manager may keep one descriptor; the daemon has one for each of its threads.
            Candidate? best = _candidates.MaxBy(candidate => candidate.Connections.Count(found => found == minor));
            return best is not null && best.Connections.Contains(minor, StringComparer.Ordinal) ? best.Id : null;
        }

        List<Candidate> holders = _candidates.FindAll(candidate => candidate.Files.Contains(mount.Source));
        return holders.Count == 1 ? holders[0].Id : null;
    }

    /// <summary>A process with /dev/fuse open; null for others.</summary>
    private static Candidate? Look(string directory, int id)
    {
        Candidate candidate = new(id, [], new HashSet<string>(StringComparer.Ordinal));
        try
        {
            foreach ((string number, string target) in OpenDescriptors.Of(directory))
            {
                candidate.Files.Add(target);
                if (target is DevicePath && ConnectionOf($"{directory}/fdinfo/{number}") is { } connection)
                    candidate.Connections.Add(connection);
            }
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // It ended while it was looked at, or belongs to somebody else.
            return null;
        }

        return candidate.Files.Contains(DevicePath) ? candidate : null;
    }

    private static string? ConnectionOf(string fdinfo) => File.ReadLines(fdinfo)
        .FirstOrDefault(static line => line.StartsWith(ConnectionField, StringComparison.Ordinal))
        ?[ConnectionField.Length..].Trim();

    private sealed record Candidate(int Id, List<string> Connections, HashSet<string> Files);
}
