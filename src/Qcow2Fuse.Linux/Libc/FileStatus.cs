// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>What kind of thing a file name stands for (S_IFMT).</summary>
public enum FileType
{
    /// <summary>Of no kind that is known.</summary>
    Unknown = 0,

    /// <summary>A pipe with a name.</summary>
    Fifo = 0x1000,

    /// <summary>A device without blocks.</summary>
    CharacterDevice = 0x2000,

    /// <summary>A directory.</summary>
    Directory = 0x4000,

    /// <summary>A block device.</summary>
    BlockDevice = 0x6000,

    /// <summary>A regular file.</summary>
    Regular = 0x8000,

    /// <summary>A symbolic link.</summary>
    SymbolicLink = 0xA000,

    /// <summary>A socket.</summary>
    Socket = 0xC000,
}

/// <summary>The part of statx(2) that storage needs.</summary>
/// <param name="Type">Kind of file.</param>
/// <param name="Size">Size in bytes; 0 for block devices.</param>
/// <param name="AllocatedBytes">Bytes of storage in use.</param>
/// <param name="Device">Number of the file system, major in the upper half.</param>
/// <param name="Inode">Inode number, unique within <paramref name="Device"/>.</param>
/// <param name="SpecialDevice">For a device file the number of the device, major in the upper half.</param>
/// <param name="DirectMemoryAlignment">Alignment of buffers for O_DIRECT in bytes; 0 where it is not known.</param>
/// <param name="DirectOffsetAlignment">Alignment of offsets and lengths for O_DIRECT; 0 where it is not known.</param>
/// <param name="Owner">The user it belongs to.</param>
/// <param name="Permissions">The permission bits with set-uid, set-gid and sticky (0 to 07777).</param>
/// <param name="Links">How many names it has.</param>
/// <param name="ModifiedTicks">When its content last changed, in ticks of UTC.</param>
public readonly record struct FileStatus(
    FileType Type,
    long Size,
    long AllocatedBytes,
    ulong Device,
    ulong Inode,
    ulong SpecialDevice,
    int DirectMemoryAlignment,
    int DirectOffsetAlignment,
    uint Owner,
    uint Permissions,
    uint Links,
    long ModifiedTicks);

/// <summary>struct statx of the kernel (include/uapi/linux/stat.h), 256 bytes on every processor.</summary>
[StructLayout(LayoutKind.Explicit, Size = 256)]
internal struct StatxBuffer
{
    public const uint BasicStats = 0x7ff;
    public const uint DirectAlignment = 0x2000;

    [FieldOffset(0)]
    public uint Mask;

    [FieldOffset(16)]
    public uint Links;

    [FieldOffset(20)]
    public uint Owner;

    [FieldOffset(28)]
    public ushort Mode;

    [FieldOffset(32)]
    public ulong Inode;

    [FieldOffset(40)]
    public ulong Size;

    [FieldOffset(48)]
    public ulong Blocks;

    [FieldOffset(112)]
    public long ModifiedSeconds;

    [FieldOffset(120)]
    public uint ModifiedNanoseconds;

    [FieldOffset(128)]
    public uint SpecialMajor;

    [FieldOffset(132)]
    public uint SpecialMinor;

    [FieldOffset(136)]
    public uint DeviceMajor;

    [FieldOffset(140)]
    public uint DeviceMinor;

    [FieldOffset(152)]
    public uint DirectMemoryAlignment;

    [FieldOffset(156)]
    public uint DirectOffsetAlignment;
}
