// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.Control.Messages;

/// <summary>What other processes have open.</summary>
internal static class OpenFiles
{
    /// <summary>
    /// Whether a process may have a file open, by the numbers of inodes alone; also where these are not seen. Nothing
    /// that it has open is touched: one of its files may be on a file system that never answers.
    /// </summary>
    public static bool MayHaveOpen(int process, FileIdentity file)
    {
        // What is open of a device is its node, and it may have several.
        if (file.IsBlockDevice)
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
