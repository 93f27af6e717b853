// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Mounting;

/// <summary>
/// Sockets over which processes hand each other descriptors (SCM_RIGHTS, unix(7)).
/// </summary>
public static unsafe partial class DescriptorSocket
{
    /// <summary>Most descriptors in one message (SCM_MAX_FD is 253).</summary>
    public const int DescriptorsMax = 250;

    private const int UnixFamily = 1;
    private const int StreamType = 1;
    private const int CloseOnExec = 0x80000;
    private const int ReceiveCloseOnExec = 0x40000000;
    private const int SocketLevel = 1;
    private const int RightsType = 1;
    private const int InterruptedErrno = 4;
    private const int NoDataErrno = 61;
    private const int SendWithoutSignal = 0x4000;
    private const int ControlHeaderSize = 16;

    /// <summary>
    /// Makes the pair; both are closed on exec, unless a program is started with one of them. 0 or the negated error
    /// number.
    /// </summary>
    public static int CreatePair(out int ours, out int theirs)
    {
        int* pair = stackalloc int[2];
        int result = SocketpairNative(UnixFamily, StreamType | CloseOnExec, 0, pair);
        int errno = Marshal.GetLastPInvokeError();
        ours = result >= 0 ? pair[0] : -1;
        theirs = result >= 0 ? pair[1] : -1;
        return result >= 0 ? 0 : -errno;
    }

    /// <summary>
    /// Waits for a descriptor and returns it, closed on exec. −ENODATA if the other side closed without sending one.
    /// </summary>
    public static int Receive(int socket)
    {
        Span<byte> data = stackalloc byte[1];
        Span<int> descriptor = stackalloc int[1];
        int result = Receive(socket, data, descriptor, out int count);
        if (result < 0)
            return result;
        return count == 1 ? descriptor[0] : -NoDataErrno;
    }

    /// <summary>Waits for a message, and for the descriptors that come with it, which are closed on exec.</summary>
    /// <param name="socket">A connected or bound socket.</param>
    /// <param name="data">Takes the message; what does not fit is lost.</param>
    /// <param name="descriptors">Takes the descriptors, at most <see cref="DescriptorsMax"/>; the kernel closes those
    /// that do not fit.</param>
    /// <param name="count">How many there are.</param>
    /// <returns>Bytes of the message, 0 at the end of a stream, or the negated error number.</returns>
    public static int Receive(int socket, Span<byte> data, Span<int> descriptors, out int count)
    {
        count = 0;
        byte* control = stackalloc byte[ControlHeaderSize + (DescriptorsMax * sizeof(int))];
        int wanted = Math.Min(descriptors.Length, DescriptorsMax);
        fixed (byte* bytes = data)
        {
            IoVector vector = new() { Base = bytes, Length = (nuint)data.Length };
            MessageHeader message = new()
            {
                Vectors = &vector,
                VectorCount = 1,
                Control = control,
                ControlLength = (nuint)(ControlHeaderSize + (wanted * sizeof(int))),
            };
            nint result;
            int errno;
            do
            {
                result = RecvmsgNative(socket, &message, ReceiveCloseOnExec);
                errno = Marshal.GetLastPInvokeError();
            }
            while (result < 0 && errno == InterruptedErrno);
            if (result < 0)
                return -errno;

            // struct cmsghdr: length (8 bytes), level, type (4 each), then the descriptors.
            bool hasDescriptors = message.ControlLength >= ControlHeaderSize + sizeof(int)
                && *(int*)(control + 8) == SocketLevel && *(int*)(control + 12) == RightsType;
            if (hasDescriptors)
            {
                count = Math.Min((int)(*(long*)control - ControlHeaderSize) / sizeof(int), descriptors.Length);
                new ReadOnlySpan<int>(control + ControlHeaderSize, count).CopyTo(descriptors);
            }

            return (int)result;
        }
    }

    /// <summary>Sends a message together with descriptors over a connected socket. 0 or the negated error number.
    /// </summary>
    /// <param name="socket">A connected socket.</param>
    /// <param name="data">The message, not empty.</param>
    /// <param name="descriptors">1 to <see cref="DescriptorsMax"/> descriptors, which stay open here too.</param>
    public static int Send(int socket, ReadOnlySpan<byte> data, ReadOnlySpan<int> descriptors)
    {
        ArgumentOutOfRangeException.ThrowIfZero(descriptors.Length, nameof(descriptors));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(descriptors.Length, DescriptorsMax, nameof(descriptors));
        int length = ControlHeaderSize + (descriptors.Length * sizeof(int));
        int space = (length + 7) & ~7;
        byte* control = stackalloc byte[space];
        new Span<byte>(control, space).Clear();
        *(long*)control = length;
        *(int*)(control + 8) = SocketLevel;
        *(int*)(control + 12) = RightsType;
        descriptors.CopyTo(new Span<int>(control + ControlHeaderSize, descriptors.Length));
        fixed (byte* bytes = data)
        {
            IoVector vector = new() { Base = bytes, Length = (nuint)data.Length };
            MessageHeader message = new()
            {
                Vectors = &vector,
                VectorCount = 1,
                Control = control,
                ControlLength = (nuint)space,
            };
            while (true)
            {
                nint result = SendmsgNative(socket, &message, SendWithoutSignal);
                int errno = Marshal.GetLastPInvokeError();
                if (result >= 0)
                    return 0;
                if (errno != InterruptedErrno)
                    return -errno;
            }
        }
    }

    [LibraryImport("libc", EntryPoint = "socketpair", SetLastError = true)]
    private static partial int SocketpairNative(int family, int type, int protocol, int* pair);

    [LibraryImport("libc", EntryPoint = "recvmsg", SetLastError = true)]
    private static partial nint RecvmsgNative(int socket, MessageHeader* message, int flags);

    [LibraryImport("libc", EntryPoint = "sendmsg", SetLastError = true)]
    private static partial nint SendmsgNative(int socket, MessageHeader* message, int flags);

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
