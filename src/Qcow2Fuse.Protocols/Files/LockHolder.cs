// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// Finds out who holds a lock. The kernel knows no process for locks of open file descriptions (/proc/locks shows −1),
/// but the descriptor's file in /proc/PID/fdinfo lists them.
/// </summary>
internal static class LockHolder
{
    private const int GenerationsMax = 1000;

    /// <summary>
    /// "COMMAND (pid N)" for a process that has a lock on the byte <paramref name="offset"/> of the file, or null if
    /// none is found, such as when it is another user's. Where several have it, as a service manager that keeps the
    /// descriptors of its service, it is one that was started by the others.
    /// </summary>
    public static string? Find(IOpener opener, FileIdentity file, long offset, out int holder)
    {
        holder = 0;
        List<int> holders = [];
        foreach (string process in Directory.EnumerateDirectories("/proc"))
        {
            if (int.TryParse(Path.GetFileName(process), CultureInfo.InvariantCulture, out int id)
                && Holds(opener, process, file, offset))
            {
                holders.Add(id);
            }
        }

        if (holders.Count == 0)
            return null;
        int last = holders.Find(one => holders.TrueForAll(other => other == one || !IsAbove(one, other)));
        holder = last > 0 ? last : holders[0];
        return $"{Command($"/proc/{holder}")} (pid {holder})";
    }

    /// <summary>Whether a process started another one, or one that did.</summary>
    private static bool IsAbove(int process, int other)
    {
        for (int depth = 0; depth < GenerationsMax && other > 1; depth++)
        {
            other = ParentOf(other);
            if (other == process)
                return true;
        }

        return false;
    }

    /// <summary>0 for a process that has ended.</summary>
    private static int ParentOf(int process)
    {
        const string Field = "PPid:";
        try
        {
            string? line = File.ReadLines($"/proc/{process}/status")
                .FirstOrDefault(static line => line.StartsWith(Field, StringComparison.Ordinal));
            return line is not null
                && int.TryParse(line.AsSpan(Field.Length).Trim(), CultureInfo.InvariantCulture, out int parent)
                    ? parent : 0;
        }
        catch (IOException)
        {
            return 0;
        }
    }

    private static bool Holds(IOpener opener, string process, FileIdentity file, long offset)
    {
        try
        {
            foreach (string info in Directory.EnumerateFiles(process + "/fdinfo"))
            {
                if (File.ReadLines(info).Any(line => IsLock(line, file.Inode, offset))
                    && IsSame(opener, $"{process}/fd/{Path.GetFileName(info)}", file))
                {
                    return true;
                }
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // The process has ended, or is another user's: then it cannot be named.
            return false;
        }

        return false;
    }

    /// <summary>
    /// Whether a line is "lock: 1: OFDLCK ADVISORY READ -1 fe:00:1234 100 101" for the inode and the byte. Device
    /// files have no inode to compare here.
    /// </summary>
    private static bool IsLock(string line, ulong inode, long offset)
    {
        if (!line.StartsWith("lock:", StringComparison.Ordinal))
            return false;
        string[] parts = line.Split((char[])[' ', '\t'], StringSplitOptions.RemoveEmptyEntries);
        if (parts.Length < 4 || !long.TryParse(parts[^2], CultureInfo.InvariantCulture, out long first))
            return false;
        bool toEnd = string.Equals(parts[^1], "EOF", StringComparison.Ordinal);
        long last = long.MaxValue;
        if (!toEnd && !long.TryParse(parts[^1], CultureInfo.InvariantCulture, out last))
            return false;
        string[] where = parts[^3].Split(':');
        bool sameInode = inode == ulong.MaxValue
            || (ulong.TryParse(where[^1], CultureInfo.InvariantCulture, out ulong found) && found == inode);
        return sameInode && first <= offset && offset <= last;
    }

    private static bool IsSame(IOpener opener, string path, FileIdentity file)
    {
        int fd = opener.Open(path, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        if (fd < 0)
            return false;
        int result = LinuxFile.KnownStatus(fd, out FileStatus status);
        _ = LinuxFile.Close(fd);
        return result == 0 && FileIdentity.Of(status) == file;
    }

    private static string Command(string process)
    {
        try
        {
            return Printable.Text(File.ReadAllText(process + "/comm").TrimEnd('\n'));
        }
        catch (IOException)
        {
            return "a process that has just ended";
        }
    }
}
