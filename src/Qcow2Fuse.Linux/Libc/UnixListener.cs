// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>
/// A listening socket of the file system (unix(7)) that somebody waits at for little: the sockets of the class library
/// have a thread of their own from the first one on. Results are 0 or a descriptor, or negated error numbers.
/// </summary>
public static unsafe partial class UnixListener
{
    private const ushort UnixFamily = 1;
    private const int StreamType = 1;
    private const int CloseOnExec = 0x80000;
    private const int PathBytesMax = 107;
    private const int ShutBoth = 2;

    /// <summary>
    /// Makes a socket at a path where nothing is, which only its owner may connect to. −ENAMETOOLONG beyond 107 bytes.
    /// </summary>
    public static int Open(string path, int backlog)
    {
        byte[] name = ByteText.Encode(path);
        if (name.Length > PathBytesMax)
            return -Errno.ENAMETOOLONG;
        int socket = SocketNative(UnixFamily, StreamType | CloseOnExec, 0);
        int errno = Marshal.GetLastPInvokeError();
        if (socket < 0)
            return -errno;
        Address address = new() { Family = UnixFamily };
        name.CopyTo(new Span<byte>(address.Path, PathBytesMax));

        // The socket has these permissions from its first moment on.
        int result = FChmodNative(socket, 0x180);
        if (result == 0)
            result = BindNative(socket, &address, (uint)sizeof(Address));
        if (result == 0)
            result = ListenNative(socket, backlog);
        errno = Marshal.GetLastPInvokeError();
        if (result == 0)
            return socket;
        _ = LinuxFile.Close(socket);
        return -errno;
    }

    /// <summary>Waits until somebody connects, or <see cref="Shutdown"/> was called.</summary>
    public static int Wait(int socket)
    {
        while (true)
        {
            int result = Polling.Wait(socket, Polling.Readable, milliseconds: -1, out _);
            if (result >= 0)
                return 0;
            if (result != -Errno.EINTR)
                return result;
        }
    }

    /// <summary>Refuses who comes, and wakes who waits.</summary>
    public static int Shutdown(int socket)
    {
        int result = ShutdownNative(socket, ShutBoth);
        int errno = Marshal.GetLastPInvokeError();
        return result == 0 ? 0 : -errno;
    }

    [LibraryImport("libc", EntryPoint = "socket", SetLastError = true)]
    private static partial int SocketNative(int family, int type, int protocol);

    [LibraryImport("libc", EntryPoint = "fchmod", SetLastError = true)]
    private static partial int FChmodNative(int fd, uint mode);

    [LibraryImport("libc", EntryPoint = "bind", SetLastError = true)]
    private static partial int BindNative(int socket, Address* address, uint length);

    [LibraryImport("libc", EntryPoint = "listen", SetLastError = true)]
    private static partial int ListenNative(int socket, int backlog);

    [LibraryImport("libc", EntryPoint = "shutdown", SetLastError = true)]
    private static partial int ShutdownNative(int socket, int how);

    /// <summary>struct sockaddr_un.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Address
    {
        public ushort Family;
        public fixed byte Path[PathBytesMax + 1];
    }
}
