// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// What tells a file of this host from all others, whatever it is called. A block device is the same under any of its
/// names.
/// </summary>
/// <param name="Device">Number of the file system, or that of a block device.</param>
/// <param name="Inode">Number of the file within it; <see cref="ulong.MaxValue"/> for a block device.</param>
public readonly record struct FileIdentity(ulong Device, ulong Inode)
{
    /// <summary>Whether it is a block device.</summary>
    public bool IsBlockDevice => Inode == ulong.MaxValue;

    /// <summary>The same among all kinds of storage.</summary>
    public StorageIdentity Storage =>
        new(FileStorage.Scheme, string.Create(CultureInfo.InvariantCulture, $"{Device:x}:{Inode:x}"));

    /// <summary>Which file a status is of.</summary>
    public static FileIdentity Of(in FileStatus status) => status.Type == FileType.BlockDevice
        ? new FileIdentity(status.SpecialDevice, ulong.MaxValue)
        : new FileIdentity(status.Device, status.Inode);

    /// <summary>The file at the end of a path, without opening it for use; null where there is none.</summary>
    /// <param name="path">The path.</param>
    /// <param name="opener">What finds it; null for the system.</param>
    public static FileIdentity? At(string path, IOpener? opener = null)
    {
        int descriptor = (opener ?? SystemOpener.Instance).Open(path, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        if (descriptor < 0)
            return null;
        int result = LinuxFile.Status(descriptor, out FileStatus status);
        _ = LinuxFile.Close(descriptor);
        return result < 0 ? null : Of(status);
    }
}
