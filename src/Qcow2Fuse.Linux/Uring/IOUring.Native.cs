// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Uring;

/// <summary>System calls and structs of include/uapi/linux/io_uring.h; numbers are those of all 64-bit machines.
/// </summary>
public sealed unsafe partial class IOUring
{
    private const nint SetupNumber = 425;
    private const nint EnterNumber = 426;

    private const nint RingsOffset = 0;
    private const nint SubmissionsOffset = 0x10000000;

    private static int TryMap(int descriptor, nuint length, nint offset, out byte* address)
    {
        const int ReadWrite = 3;
        const int SharedPopulate = 0x8001;
        void* result = MapNative(null, length, ReadWrite, SharedPopulate, descriptor, offset);
        int errno = Marshal.GetLastPInvokeError();
        address = result == (void*)-1 ? null : (byte*)result;
        return address == null ? -errno : 0;
    }

    // The C library has no functions for these calls.
    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint SetupNative(nint number, nuint entries, SetupParameters* parameters);

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint EnterNative(
        nint number, nint descriptor, nuint submit, nuint complete, nuint flags, void* argument, nuint size);

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial void* MapNative(
        void* address, nuint length, int protection, int flags, int descriptor, nint offset);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int UnmapNative(void* address, nuint length);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int CloseNative(int descriptor);

    /// <summary>struct io_uring_params.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct SetupParameters
    {
        public uint SubmitEntries;
        public uint CompleteEntries;
        public uint Flags;
        public uint ThreadProcessor;
        public uint ThreadIdle;
        public uint Features;
        public uint WorkQueue;
        public fixed uint Reserved[3];
        public SubmitQueueOffsets SubmitOffsets;
        public CompleteQueueOffsets CompleteOffsets;
    }

    /// <summary>struct io_sqring_offsets.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct SubmitQueueOffsets
    {
        public uint Head;
        public uint Tail;
        public uint RingMask;
        public uint RingEntries;
        public uint Flags;
        public uint Dropped;
        public uint Array;
        public uint Reserved;
        public ulong UserAddress;
    }

    /// <summary>struct io_cqring_offsets.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct CompleteQueueOffsets
    {
        public uint Head;
        public uint Tail;
        public uint RingMask;
        public uint RingEntries;
        public uint Overflow;
        public uint Completions;
        public uint Flags;
        public uint Reserved;
        public ulong UserAddress;
    }

    /// <summary>struct io_uring_cqe.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Completion
    {
        public ulong UserData;
        public int Result;
        public uint Flags;
    }
}

/// <summary>
/// struct io_uring_sqe of 128 bytes: a command of a device (IORING_OP_URING_CMD), a transfer, or a wait for a
/// descriptor.
/// </summary>
[StructLayout(LayoutKind.Explicit, Size = 128)]
public struct UringCommand
{
    /// <summary>IORING_OP_URING_CMD.</summary>
    public const byte DeviceCommand = 46;

    /// <summary>IORING_OP_POLL_ADD: completes when the descriptor has what <see cref="Flags"/> ask for.</summary>
    public const byte Poll = 6;

    /// <summary>IORING_OP_READ, as pread(2).</summary>
    public const byte Read = 22;

    /// <summary>IORING_OP_WRITE, as pwrite(2).</summary>
    public const byte Write = 23;

    /// <summary>What the ring is to do.</summary>
    [FieldOffset(0)]
    public byte Opcode;

    /// <summary>The descriptor it is about.</summary>
    [FieldOffset(4)]
    public int Descriptor;

    /// <summary>What the device is to do.</summary>
    [FieldOffset(8)]
    public uint Operation;

    /// <summary>Of a transfer: where it begins in the file.</summary>
    [FieldOffset(8)]
    public long Offset;

    /// <summary>Address of what goes with it.</summary>
    [FieldOffset(16)]
    public ulong Address;

    /// <summary>Its length, in the device's units; of a transfer in bytes.</summary>
    [FieldOffset(24)]
    public uint Length;

    /// <summary>Flags of the operation: the events to wait for.</summary>
    [FieldOffset(28)]
    public uint Flags;

    /// <summary>Comes back with the completion.</summary>
    [FieldOffset(32)]
    public ulong UserData;

    /// <summary>The first 8 of the 80 bytes that belong to the device.</summary>
    [FieldOffset(48)]
    public ulong Device0;

    /// <summary>The next 8 of them.</summary>
    [FieldOffset(56)]
    public ulong Device1;

    /// <summary>And the next.</summary>
    [FieldOffset(64)]
    public ulong Device2;
}
