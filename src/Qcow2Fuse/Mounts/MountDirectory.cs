// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;

namespace Qcow2Fuse.Mounts;

/// <summary>Makes directories to mount on, with the modes that their users need whatever the umask is.</summary>
internal static class MountDirectory
{
    /// <summary>
    /// Where sockets and mounts of root's daemons are. Others go through it to a mount that lets them in, and see no
    /// names: a socket asks itself who connects.
    /// </summary>
    public const string System = "/run/qcow2fuse";

    /// <summary>The directory below which <c>attach</c> makes its mount points.</summary>
    public static string AttachBase => Path.Combine(System, "attach");

    /// <summary>The directory below which <c>mount --fs</c> makes its mount points.</summary>
    public static string FileSystemBase => Path.Combine(System, "fs");

    private const string UserDirectories = "/run/user";
    private const uint OthersWrite = 0x12; // ----w--w-
    private const uint Usual = 0x1ED; // rwxr-xr-x
    private const uint Passage = 0x1C9; // rwx--x--x
    private const uint Permissions = 0xFFF;
    private const uint OwnerOnly = 0x1C0; // rwx------

    /// <summary>
    /// Makes a directory and those above it that are missing. What is there already is not touched, nor what is mounted
    /// there asked anything: mkdir(2) sees the name in the directory above.
    /// </summary>
    /// <param name="path">An absolute path.</param>
    /// <exception cref="IOException">It cannot be made.</exception>
    public static void Make(string path)
    {
        int result = TryMake(path);
        if (result == -Errno.ENOENT && Path.GetDirectoryName(path) is { } above)
        {
            Make(above);
            result = TryMake(path);
        }

        // Where something else is there, whoever mounts there says so.
        if (result < 0 && result != -Errno.EEXIST)
            throw new IOException($"{Printable.Text(path)}: cannot be made: {Errno.Text(-result)}");
    }

    /// <summary>
    /// Where things of the calling user are while he is logged in: $XDG_RUNTIME_DIR, or /run/user/UID where that
    /// variable is not set, as for a timer, or names a directory of somebody else, as after su(1) or sudo(8). Null
    /// where there is neither.
    /// </summary>
    public static string? OfUser
    {
        get
        {
            if (Environment.GetEnvironmentVariable("XDG_RUNTIME_DIR") is { Length: > 0 } named && IsOwn(named))
                return named;
            string usual = Path.Combine(
                UserDirectories, MountCalls.EffectiveUser().ToString(CultureInfo.InvariantCulture));
            return IsOwn(usual) ? usual : null;
        }
    }

    /// <summary>
    /// Whether a path is a directory of the calling user to which nobody else can write, and no link to one.
    /// </summary>
    public static bool IsOwn(string path)
    {
        int held = LinuxFile.Open(path, OpenFlags.PathOnly | OpenFlags.NoFollow | OpenFlags.CloseOnExec);
        if (held < 0)
            return false;
        bool isOwn = LinuxFile.Status(held, out FileStatus status) == 0 && status.Type == FileType.Directory
            && status.Owner == MountCalls.EffectiveUser() && (status.Permissions & OthersWrite) == 0;
        _ = LinuxFile.Close(held);
        return isOwn;
    }

    private static int TryMake(string path)
    {
        bool isSystem = string.Equals(path, System, StringComparison.Ordinal);
        int result = LinuxDirectory.Make(path, isSystem ? Passage : Usual);
        if (isSystem && result == -Errno.EEXIST)
            OpenToOthers();
        return result;
    }

    /// <summary>One that an earlier version made for root alone lets others through as far as they need it.</summary>
    private static void OpenToOthers()
    {
        int held = LinuxFile.Open(System, OpenFlags.PathOnly | OpenFlags.NoFollow | OpenFlags.CloseOnExec);
        if (held < 0)
            return;
        bool isClosed = LinuxFile.Status(held, out FileStatus status) == 0 && status.Type == FileType.Directory
            && status.Owner == 0 && MountCalls.EffectiveUser() == 0 && (status.Permissions & Permissions) == OwnerOnly;
        _ = LinuxFile.Close(held);
        if (isClosed)
            _ = LinuxDirectory.SetMode(System, Passage);
    }
}
