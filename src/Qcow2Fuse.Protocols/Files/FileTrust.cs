// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// Whose files are opened for whom. Root, or any user, reads more than those who may put names into a directory or who
/// may enter a mount; what he can read is not what they may.
/// </summary>
internal static class FileTrust
{
    private const uint OthersWrite = 0x12; // ----w--w-
    private const string LinkProtection = "/proc/sys/fs/protected_hardlinks";

    /// <summary>Whether nobody but the user of this process can put names into a directory.</summary>
    public static bool IsOwn(in FileStatus directory) =>
        directory.Owner == MountCalls.EffectiveUser() && (directory.Permissions & OthersWrite) == 0;

    /// <summary>Whether a file is this user's, root's, or <paramref name="owner"/>'s.</summary>
    public static bool IsOwnedBy(in FileStatus file, uint owner) =>
        file.Owner == 0 || file.Owner == owner || file.Owner == MountCalls.EffectiveUser();

    /// <summary>
    /// Whether a name in <paramref name="directory"/> may be a hard link that somebody made to a file which is not
    /// his: the file has other names, and others than its owner, this user and root can make names there.
    /// </summary>
    public static bool MayBePlanted(in FileStatus file, in FileStatus directory)
    {
        if (file.Links < 2 || file.Type != FileType.Regular)
            return false;
        bool isClosed = (directory.Permissions & OthersWrite) == 0;
        return !(isClosed && (directory.Owner == file.Owner || directory.Owner == 0
            || directory.Owner == MountCalls.EffectiveUser()));
    }

    /// <summary>
    /// Whether the kernel lets nobody make a hard link to a file that he cannot read and write (proc_sys_fs(5),
    /// protected_hardlinks).
    /// </summary>
    public static bool KernelGuardsLinks(IOpener opener)
    {
        int fd = opener.Open(LinkProtection, OpenFlags.ReadOnly | OpenFlags.CloseOnExec);
        if (fd < 0)
            return false;
        Span<byte> value = stackalloc byte[1];
        int length = LinuxFile.Read(fd, value, offset: 0);
        _ = LinuxFile.Close(fd);
        return length == 1 && value[0] != (byte)'0';
    }

    /// <summary>The status of an open file.</summary>
    public static FileStatus StatusOf(int fd, string path)
    {
        int result = LinuxFile.Status(fd, out FileStatus status);
        return result >= 0 ? status : throw FileErrors.Failed(-result, Printable.Text(path), "fstat");
    }
}
