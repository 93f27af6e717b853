// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block;
using Qcow2Fuse.Linux;

namespace Qcow2Fuse.Protocols;

/// <summary>
/// Finds out who holds a lock. The kernel knows no process for locks of open file descriptions (/proc/locks shows −1),
/// but the descriptor's file in /proc/PID/fdinfo lists them.
/// </summary>
internal static class LockHolder
{
    /// <summary>
    /// "COMMAND (pid N)" for a process that has a lock on the byte <paramref name="offset"/> of the file, or null if
    /// none is found, such as when it is another user's.
    /// </summary>
    public static string? Find(StorageIdentity file, long offset)
    {
        foreach (string process in Directory.EnumerateDirectories("/proc"))
        {
            if (int.TryParse(Path.GetFileName(process), CultureInfo.InvariantCulture, out int id)
                && Holds(process, file, offset))
            {
                return $"{Command(process)} (pid {id})";
            }
        }

        return null;
    }

    private static bool Holds(string process, StorageIdentity file, long offset)
    {
        try
        {
            foreach (string info in Directory.EnumerateFiles(process + "/fdinfo"))
            {
                if (File.ReadLines(info).Any(line => IsLock(line, file.Inode, offset))
                    && IsSame($"{process}/fd/{Path.GetFileName(info)}", file))
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

    private static bool IsSame(string path, StorageIdentity file)
    {
        int fd = LinuxFile.Open(path, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        if (fd < 0)
            return false;
        int result = LinuxFile.Status(fd, out FileStatus status);
        _ = LinuxFile.Close(fd);
        return result == 0 && FileDevice.IdentityOf(status) == file;
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
