// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Loop;
using Qcow2Fuse.Linux.Processes;

namespace Qcow2Fuse.Fuse.Mounting;

/// <summary>
/// Who keeps a mount from being unmounted: processes with files open, mapped or as their directory, loop devices on its
/// files, and mounts below it. Asks nothing of the mount itself. Other users' processes are not seen without rights.
/// </summary>
internal static class MountUsers
{
    private const int ShownMax = 3;

    /// <summary>
    /// The kernel shows what a process has mapped only while nobody changes that, and whoever waits for a file system
    /// that hangs may keep it from doing so.
    /// </summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);

    /// <summary>
    /// What there is to say in half a sentence, such as <c>dd (pid 4711) has disk.raw open</c>; null if nobody is seen
    /// within two seconds.
    /// </summary>
    /// <param name="mountPoint">An absolute path without symbolic links.</param>
    public static string? Describe(string mountPoint)
    {
        string? found = null;
        void Look() => Guarded.Run(
            () => found = Find(mountPoint), failure => found = $"its users cannot be seen: {failure.Message}");
        Thread look = new(Look) { IsBackground = true, Name = "mount-users" };
        return ManagedRoom.TryStart(look) && look.Join(Patience) ? found : null;
    }

    private static string? Find(string mountPoint)
    {
        List<string> users = [.. MountsBelow(mountPoint), .. LoopsOn(mountPoint), .. Processes(mountPoint)];
        if (users.Count == 0)
            return null;
        string more = users.Count > ShownMax
            ? string.Create(CultureInfo.InvariantCulture, $" and {users.Count - ShownMax} more")
            : "";
        return string.Join(", ", users.Take(ShownMax)) + more;
    }

    private static IEnumerable<string> MountsBelow(string mountPoint) =>
        MountTable.Read()
            .Where(entry => entry.MountPoint.StartsWith(mountPoint + "/", StringComparison.Ordinal))
            .Select(static entry => $"{entry.Source} is mounted on {entry.MountPoint}");

    private static IEnumerable<string> LoopsOn(string mountPoint) =>
        from loop in LoopTable.Read()
        where IsWithin(loop.BackingFile, mountPoint)
        select $"{loop.Path} shows {NameIn(mountPoint, loop.BackingFile)}";

    private static IEnumerable<string> Processes(string mountPoint)
    {
        foreach (string directory in Directory.EnumerateDirectories("/proc"))
        {
            if (int.TryParse(Path.GetFileName(directory), CultureInfo.InvariantCulture, out int id)
                && id != Environment.ProcessId
                && UseOf(directory, mountPoint) is { } use)
            {
                yield return string.Create(CultureInfo.InvariantCulture, $"{CommandOf(directory)} (pid {id}) {use}");
            }
        }
    }

    private static string? UseOf(string process, string mountPoint)
    {
        try
        {
            foreach ((_, string target) in OpenDescriptors.Of(process))
            {
                if (IsWithin(target, mountPoint))
                    return $"has {NameIn(mountPoint, target)} open";
            }

            foreach (string name in (string[])["cwd", "root"])
            {
                if (LinuxPath.LinkTarget($"{process}/{name}") is { } place && IsWithin(place, mountPoint))
                    return "stands in it";
            }

            // address permissions offset device inode path
            string? mapped = LinuxPath.ReadAllText(process + "/maps").Split('\n')
                .Select(static line => line.Split(' ', 6, StringSplitOptions.RemoveEmptyEntries))
                .FirstOrDefault(fields => fields.Length == 6 && IsWithin(fields[5], mountPoint))?[5];
            return mapped is null ? null : $"has {NameIn(mountPoint, mapped)} mapped";
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // It has ended, or belongs to somebody else.
            return null;
        }
    }

    private static string CommandOf(string process)
    {
        try
        {
            return File.ReadAllText(process + "/comm").TrimEnd('\n');
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return "a process";
        }
    }

    private static bool IsWithin(string path, string mountPoint) =>
        path.StartsWith(mountPoint, StringComparison.Ordinal)
        && (path.Length == mountPoint.Length || path[mountPoint.Length] == '/');

    private static string NameIn(string mountPoint, string path) =>
        path.Length == mountPoint.Length ? path : path[(mountPoint.Length + 1)..];
}
