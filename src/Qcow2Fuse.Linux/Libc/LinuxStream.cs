// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>Calls on descriptors that need not be seekable: pipes, terminals, sockets.</summary>
public static unsafe partial class LinuxStream
{
    /// <summary>write(2) until all is written: 0, or −errno.</summary>
    public static int Write(int fd, ReadOnlySpan<byte> source)
    {
        fixed (byte* start = source)
        {
            int done = 0;
            while (done < source.Length)
            {
                nint result = WriteNative(fd, start + done, (nuint)(source.Length - done));
                int errno = Marshal.GetLastPInvokeError();
                if (result >= 0)
                    done += (int)result;
                else if (errno != Errno.EINTR)
                    return -errno;
            }

            return 0;
        }
    }

    /// <summary>read(2) once: how many bytes came, 0 at the end, or −errno.</summary>
    public static int Read(int fd, Span<byte> destination)
    {
        fixed (byte* start = destination)
        {
            while (true)
            {
                nint result = ReadNative(fd, start, (nuint)destination.Length);
                int errno = Marshal.GetLastPInvokeError();
                if (result >= 0)
                    return (int)result;
                if (errno != Errno.EINTR)
                    return -errno;
            }
        }
    }

    /// <summary>Whether the descriptor is open and passes on to programs that are started (no FD_CLOEXEC).</summary>
    public static bool IsInherited(int fd)
    {
        const int GetFlags = 1;
        const int CloseOnExec = 1;
        int flags = FcntlNative(fd, GetFlags, 0);
        return flags >= 0 && (flags & CloseOnExec) == 0;
    }

    /// <summary>isatty(3).</summary>
    public static bool IsTerminal(int fd) => IsattyNative(fd) == 1;

    /// <summary>How many columns a terminal has (TIOCGWINSZ); 0 where that is not known, or it is none.</summary>
    public static int TerminalColumns(int fd)
    {
        const nuint GetWindowSize = 0x5413;
        ushort* size = stackalloc ushort[4];
        return IoctlNative(fd, GetWindowSize, size) == 0 ? size[1] : 0;
    }

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int IoctlNative(int fd, nuint request, ushort* argument);

    [LibraryImport("libc", EntryPoint = "isatty", SetLastError = true)]
    private static partial int IsattyNative(int fd);

    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    private static partial int FcntlNative(int fd, int command, nint argument);

    [LibraryImport("libc", EntryPoint = "read", SetLastError = true)]
    private static partial nint ReadNative(int fd, byte* buffer, nuint length);

    [LibraryImport("libc", EntryPoint = "write", SetLastError = true)]
    private static partial nint WriteNative(int fd, byte* buffer, nuint length);
}
