// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>
/// Reads and writes that the kernel does while nobody waits (io_setup(2)): begun on any thread, their ends seen by one.
/// Only for transfers past the page cache (O_DIRECT), and even of those some file systems wait for the end, or for a
/// lock, at the beginning. Allocates no managed memory.
/// </summary>
/// <remarks>
/// Not io_uring: a ring has the thread that began a transfer end it too, so one that waits for something else would be
/// woken for each.
/// </remarks>
public sealed unsafe partial class KernelAio : IDisposable
{
    private const int EventsAtOnce = 64;
    private const ushort Read = 0;
    private const ushort Write = 1;

    private readonly Event* _events;
    private nuint _context;

    private KernelAio(nuint context)
    {
        _context = context;
        _events = (Event*)NativeMemory.AllocZeroed(EventsAtOnce, (nuint)sizeof(Event));
    }

    /// <summary>Makes a context for <paramref name="count"/> transfers at a time.</summary>
    /// <returns>
    /// 0, −EAGAIN (the system's limit, aio-max-nr), −ENOSYS or −EPERM where it is forbidden, −ENOMEM.
    /// </returns>
    public static int Create(int count, out KernelAio? aio)
    {
        aio = null;
        nuint context = 0;
        nint result = Call(SetupNumber, (nuint)count, (nuint)(&context), 0, 0, 0);
        if (result < 0)
            return (int)result;
        aio = new KernelAio(context);
        return 0;
    }

    /// <summary>
    /// Begins a transfer between <paramref name="length"/> bytes of memory, which stays until the end has been seen,
    /// and a file. 0 or a negated error number; −EAGAIN where as many are under way as there can be.
    /// </summary>
    /// <param name="isWrite">From memory to the file.</param>
    /// <param name="fd">The file.</param>
    /// <param name="memory">Aligned as the file wants it.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="offset">Where in the file.</param>
    /// <param name="number">The caller's number for it.</param>
    public int Begin(bool isWrite, int fd, byte* memory, int length, long offset, int number)
    {
        Command command = new()
        {
            Data = (ulong)number,
            Opcode = isWrite ? Write : Read,
            Descriptor = (uint)fd,
            Memory = (ulong)memory,
            Length = (ulong)length,
            Offset = offset,
        };
        Command* list = &command;
        while (true)
        {
            nint result = Call(SubmitNumber, _context, 1, (nuint)(&list), 0, 0);
            if (result == 1)
                return 0;
            if (result != -Errno.EINTR)
                return result < 0 ? (int)result : -Errno.EAGAIN;
        }
    }

    /// <summary>Waits for the end of at least one transfer, with others that have ended by then.</summary>
    /// <param name="ended">Their numbers, and the bytes they moved or negated error numbers.</param>
    /// <returns>How many, at most the length of <paramref name="ended"/>; 0 after a signal; a negated error number.
    /// </returns>
    public int Wait(Span<(int Number, int Result)> ended)
    {
        int most = Math.Min(ended.Length, EventsAtOnce);
        nint count = Call(GetEventsNumber, _context, 1, (nuint)most, (nuint)_events, 0);
        if (count < 0)
            return count == -Errno.EINTR ? 0 : (int)count;
        for (int i = 0; i < (int)count; i++)
            ended[i] = ((int)_events[i].Data, (int)_events[i].Result);
        return (int)count;
    }

    /// <summary>Waits for what is under way and gives the context up.</summary>
    public void Dispose()
    {
        if (_context == 0)
            return;
        _ = Call(DestroyNumber, _context, 0, 0, 0, 0);
        _context = 0;
        NativeMemory.Free(_events);
    }

    private static bool IsArm => RuntimeInformation.ProcessArchitecture is Architecture.Arm64;

    private static nint SetupNumber => IsArm ? 0 : 206;

    private static nint DestroyNumber => IsArm ? 1 : 207;

    private static nint GetEventsNumber => IsArm ? 4 : 208;

    private static nint SubmitNumber => IsArm ? 2 : 209;

    /// <summary>A system call; what it returns, or a negated error number.</summary>
    private static nint Call(nint number, nuint a, nuint b, nuint c, nuint d, nuint e)
    {
        nint result = SyscallNative(number, a, b, c, d, e);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? result : -errno;
    }

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint SyscallNative(nint number, nuint a, nuint b, nuint c, nuint d, nuint e);

    /// <summary>struct iocb of a little-endian machine.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 64)]
    private struct Command
    {
        [FieldOffset(0)]
        public ulong Data;

        [FieldOffset(16)]
        public ushort Opcode;

        [FieldOffset(20)]
        public uint Descriptor;

        [FieldOffset(24)]
        public ulong Memory;

        [FieldOffset(32)]
        public ulong Length;

        [FieldOffset(40)]
        public long Offset;
    }

    /// <summary>struct io_event.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 32)]
    private struct Event
    {
        [FieldOffset(0)]
        public ulong Data;

        [FieldOffset(16)]
        public long Result;
    }
}
