// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Control.Messages;

/// <summary>Which file a path leads to, whatever it is called elsewhere.</summary>
internal static class FileIdentity
{
    /// <summary>The file at the end of a path, without opening it; null where there is none.</summary>
    public static StorageIdentity? Of(string path)
    {
        int descriptor = LinuxFile.Open(path, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        if (descriptor < 0)
            return null;
        int result = LinuxFile.Status(descriptor, out FileStatus status);
        _ = LinuxFile.Close(descriptor);
        if (result < 0)
            return null;
        return status.Type == FileType.BlockDevice
            ? new StorageIdentity(status.SpecialDevice, ulong.MaxValue)
            : new StorageIdentity(status.Device, status.Inode);
    }

    /// <summary>The number of a device from <c>MAJOR:MINOR</c>; that of none for anything else.</summary>
    public static ulong DeviceOf(string text)
    {
        string[] parts = text.Split(':');
        return parts.Length == 2
            && uint.TryParse(parts[0], NumberStyles.None, CultureInfo.InvariantCulture, out uint major)
            && uint.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out uint minor)
                ? (ulong)major << 32 | minor
                : ulong.MaxValue;
    }

    /// <summary>
    /// Whether a process may have a file open, by the numbers of inodes alone; also where these are not seen. Nothing
    /// that it has open is touched: one of its files may be on a file system that never answers.
    /// </summary>
    public static bool MayHaveOpen(int process, StorageIdentity file)
    {
        // What is open of a device is its node, and it may have several.
        if (file.Inode == ulong.MaxValue)
            return true;
        try
        {
            return OpenDescriptors.InodesOf(string.Create(CultureInfo.InvariantCulture, $"/proc/{process}"))
                .Any(inode => inode is null || inode == file.Inode);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return true;
        }
    }
}
