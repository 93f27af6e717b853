// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block;
using Qcow2Fuse.Linux;

namespace Qcow2Fuse.Control;

/// <summary>Which file a path leads to, whatever it is called elsewhere.</summary>
internal static class FileIdentity
{
    /// <summary>The file at the end of a path, without opening it; null where there is none.</summary>
    public static StorageIdentity? Of(string path) => Of(path, LinuxFile.Status);

    private delegate int StatusCall(int descriptor, out FileStatus status);

    private static StorageIdentity? Of(string path, StatusCall ask)
    {
        int descriptor = LinuxFile.Open(path, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        if (descriptor < 0)
            return null;
        int result = ask(descriptor, out FileStatus status);
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

    /// <summary>Whether a process has a file open; also where that cannot be seen.</summary>
    public static bool MayHaveOpen(int process, StorageIdentity file)
    {
        try
        {
            string directory = string.Create(CultureInfo.InvariantCulture, $"/proc/{process}");
            return OpenDescriptors.Of(directory).Any(
                open => Of($"{directory}/fd/{open.Number}", LinuxFile.KnownStatus) == file);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return true;
        }
    }
}
