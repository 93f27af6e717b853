// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux;

/// <summary>
/// A pair of connected sockets over which a child process hands us a descriptor (SCM_RIGHTS, unix(7)).
/// </summary>
public static unsafe partial class DescriptorSocket
{
    private const int UnixFamily = 1;
    private const int StreamType = 1;
    private const int SetDescriptorFlags = 2;
    private const int CloseOnExec = 1;
    private const int ReceiveCloseOnExec = 0x40000000;
    private const int SocketLevel = 1;
    private const int RightsType = 1;
    private const int InterruptedErrno = 4;
    private const int NoDataErrno = 61;

    /// <summary>
    /// Makes the pair; <paramref name="ours"/> is closed on exec, <paramref name="theirs"/> is inherited by children
    /// started before it is closed. 0 or the negated error number.
    /// </summary>
    public static int CreatePair(out int ours, out int theirs)
    {
        int* pair = stackalloc int[2];
        int result = SocketpairNative(UnixFamily, StreamType, 0, pair);
        int errno = Marshal.GetLastPInvokeError();
        ours = result >= 0 ? pair[0] : -1;
        theirs = result >= 0 ? pair[1] : -1;
        if (result < 0)
            return -errno;

        result = FcntlNative(ours, SetDescriptorFlags, CloseOnExec);
        errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? 0 : -errno;
    }

    /// <summary>
    /// Waits for a descriptor and returns it, closed on exec. −ENODATA if the other side closed without sending one.
    /// </summary>
    public static int Receive(int socket)
    {
        const int ControlSize = 64;
        byte data = 0;
        byte* control = stackalloc byte[ControlSize];
        IoVector vector = new() { Base = &data, Length = 1 };
        MessageHeader message = new()
        {
            Vectors = &vector,
            VectorCount = 1,
            Control = control,
            ControlLength = ControlSize,
        };
        while (true)
        {
            nint result = RecvmsgNative(socket, &message, ReceiveCloseOnExec);
            int errno = Marshal.GetLastPInvokeError();
            if (result < 0 && errno == InterruptedErrno)
                continue;
            if (result < 0)
                return -errno;
            break;
        }

        // struct cmsghdr: length (8 bytes), level, type (4 each), then the descriptor.
        bool hasDescriptor = message.ControlLength >= 20
            && *(int*)(control + 8) == SocketLevel && *(int*)(control + 12) == RightsType;
        return hasDescriptor ? *(int*)(control + 16) : -NoDataErrno;
    }

    [LibraryImport("libc", EntryPoint = "socketpair", SetLastError = true)]
    private static partial int SocketpairNative(int family, int type, int protocol, int* pair);

    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    private static partial int FcntlNative(int fd, int command, nint argument);

    [LibraryImport("libc", EntryPoint = "recvmsg", SetLastError = true)]
    private static partial nint RecvmsgNative(int socket, MessageHeader* message, int flags);

    [StructLayout(LayoutKind.Sequential)]
    private struct IoVector
    {
        public void* Base;
        public nuint Length;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct MessageHeader
    {
        public void* Name;
        public uint NameLength;
        public IoVector* Vectors;
        public nuint VectorCount;
        public void* Control;
        public nuint ControlLength;
        public int Flags;
    }
}
