// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Mounting;

/// <summary>
/// mount(2), umount2(2) and what has to be known before them. Results are 0 or negated error numbers.
/// </summary>
public static unsafe partial class MountCalls
{
    private const int ForceFlag = 1;
    private const int DetachFlag = 2;
    private const int NoFollowFlag = 8;
    private const int PathOnlyCloseOnExec = 0x280000;
    private const int EmptyPath = 0x1000;
    private const int ForceSync = 0x2000;
    private const int DontSync = 0x4000;
    private const uint TypeModeOwner = 0xB;

    /// <summary>The effective user of this process.</summary>
    public static uint EffectiveUser() => GeteuidNative();

    /// <summary>The effective group of this process.</summary>
    public static uint EffectiveGroup() => GetegidNative();

    /// <summary>mount(2).</summary>
    public static int Mount(string source, string target, string type, ulong flags, string data)
    {
        int result = MountNative(source, target, type, (nuint)flags, data);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? 0 : -errno;
    }

    /// <summary>
    /// umount2(2), not following a symbolic link. With <paramref name="detach"/> the mount leaves the tree at once
    /// and ends with its last user.
    /// </summary>
    public static int Unmount(string target, bool detach)
    {
        int result = Umount2Native(target, NoFollowFlag | (detach ? DetachFlag : 0));
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? 0 : -errno;
    }

    /// <summary>
    /// umount2(2) that ends the session of a FUSE mount, whoever holds it: all its users get errors.
    /// </summary>
    public static int Abort(string target)
    {
        int result = Umount2Native(target, NoFollowFlag | DetachFlag | ForceFlag);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? 0 : -errno;
    }

    /// <summary>
    /// A descriptor that stands for a path (O_PATH) and asks nothing of the file system there.
    /// </summary>
    public static int OpenPath(string path)
    {
        int result = OpenNative(path, PathOnlyCloseOnExec, 0);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? result : -errno;
    }

    /// <summary>
    /// Asks the file system itself, never a cache, what an <see cref="OpenPath"/> descriptor stands for.
    /// −ENOTCONN where it is a FUSE mount whose server has died.
    /// </summary>
    /// <param name="fd">The descriptor.</param>
    /// <param name="mode">Kind and permissions.</param>
    /// <param name="owner">The owner's uid.</param>
    public static int Probe(int fd, out uint mode, out uint owner) => Ask(fd, ForceSync, out mode, out owner);

    /// <summary>
    /// What the kernel knows about an <see cref="OpenPath"/> descriptor without asking the file system there.
    /// </summary>
    /// <param name="fd">The descriptor.</param>
    /// <param name="mode">Kind and permissions.</param>
    public static int ReadKnownMode(int fd, out uint mode) => Ask(fd, DontSync, out mode, out _);

    private static int Ask(int fd, int synchronisation, out uint mode, out uint owner)
    {
        byte* buffer = stackalloc byte[256];
        int result = StatxNative(fd, "", EmptyPath | synchronisation, TypeModeOwner, buffer);
        int errno = Marshal.GetLastPInvokeError();
        mode = result >= 0 ? *(ushort*)(buffer + 28) : 0u;
        owner = result >= 0 ? *(uint*)(buffer + 20) : 0u;
        return result >= 0 ? 0 : -errno;
    }

    [LibraryImport("libc", EntryPoint = "geteuid")]
    private static partial uint GeteuidNative();

    [LibraryImport("libc", EntryPoint = "getegid")]
    private static partial uint GetegidNative();

    [LibraryImport(
        "libc", EntryPoint = "mount", SetLastError = true, StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial int MountNative(string source, string target, string type, nuint flags, string data);

    [LibraryImport(
        "libc", EntryPoint = "umount2", SetLastError = true, StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial int Umount2Native(string target, int flags);

    [LibraryImport(
        "libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial int OpenNative(string path, int flags, uint mode);

    [LibraryImport(
        "libc", EntryPoint = "statx", SetLastError = true, StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial int StatxNative(int fd, string path, int flags, uint mask, byte* buffer);
}
