// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Fuse;

/// <summary>
/// System calls on /dev/fuse (fuse(4)). Every call returns its result, or the negated error number; none allocates
/// managed memory except <see cref="Open"/>.
/// </summary>
public static unsafe partial class FuseDevice
{
    /// <summary>The device's path.</summary>
    public const string Path = "/dev/fuse";

    private const int ReadWriteCloseOnExec = 0x80002;

    // _IOR(229, 0, uint32_t)
    private const nuint CloneRequest = 0x8004e500;

    /// <summary>Opens the device; a mount makes the descriptor a session.</summary>
    public static int Open()
    {
        int result = OpenNative(Path, ReadWriteCloseOnExec, 0);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? result : -errno;
    }

    /// <summary>
    /// Opens one more descriptor of the session, with a queue of its own for requests in work: a reply goes to the
    /// descriptor that its request was read from.
    /// </summary>
    public static int Clone(int session)
    {
        int clone = Open();
        if (clone < 0)
            return clone;

        uint source = (uint)session;
        int result = IoctlNative(clone, CloneRequest, &source);
        int errno = Marshal.GetLastPInvokeError();
        if (result >= 0)
            return clone;
        Close(clone);
        return -errno;
    }

    /// <summary>One more descriptor for the same open file, closed on exec.</summary>
    public static int Duplicate(int fd)
    {
        const int DuplicateCloseOnExec = 1030;
        int result = FcntlNative(fd, DuplicateCloseOnExec, 0);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? result : -errno;
    }

    /// <summary>
    /// Whether a session still has its mount. The kernel gives the number of a session away once it has not; as long as
    /// this is true the number is this one's.
    /// </summary>
    public static bool IsConnected(int session) =>
        Polling.Wait(session, events: 0, milliseconds: 0, out short happened) == 0 || (happened & Polling.Error) == 0;

    /// <summary>Reads one request; blocks until there is one.</summary>
    public static int Read(int fd, byte* buffer, int capacity)
    {
        nint result = ReadNative(fd, buffer, (nuint)capacity);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? (int)result : -errno;
    }

    /// <summary>Writes one reply, header and payload together.</summary>
    public static int Write(int fd, byte* buffer, int length)
    {
        nint result = WriteNative(fd, buffer, (nuint)length);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? (int)result : -errno;
    }

    /// <summary>Closes a descriptor. When the last one of a session goes, the kernel ends the session.</summary>
    public static int Close(int fd)
    {
        int result = CloseNative(fd);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? 0 : -errno;
    }

    [LibraryImport(
        "libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial int OpenNative(string path, int flags, uint mode);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int IoctlNative(int fd, nuint request, void* argument);

    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    private static partial int FcntlNative(int fd, int command, nint argument);

    [LibraryImport("libc", EntryPoint = "read", SetLastError = true)]
    private static partial nint ReadNative(int fd, byte* buffer, nuint count);

    [LibraryImport("libc", EntryPoint = "write", SetLastError = true)]
    private static partial nint WriteNative(int fd, byte* buffer, nuint count);

    [LibraryImport("libc", EntryPoint = "close", SetLastError = true)]
    private static partial int CloseNative(int fd);
}
