// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>Flags of open(2). Three of them differ between processor families.</summary>
public static class OpenFlags
{
    /// <summary>O_RDONLY.</summary>
    public const int ReadOnly = 0;

    /// <summary>O_RDWR.</summary>
    public const int ReadWrite = 2;

    /// <summary>O_CREAT.</summary>
    public const int Create = 0x40;

    /// <summary>O_EXCL.</summary>
    public const int Exclusive = 0x80;

    /// <summary>O_NOCTTY.</summary>
    public const int NoTerminal = 0x100;

    /// <summary>O_NONBLOCK.</summary>
    public const int NonBlocking = 0x800;

    /// <summary>O_CLOEXEC.</summary>
    public const int CloseOnExec = 0x80000;

    /// <summary>O_PATH.</summary>
    public const int PathOnly = 0x200000;

    private static readonly bool IsArm = RuntimeInformation.ProcessArchitecture is Architecture.Arm64;

    /// <summary>O_DIRECT: past the page cache.</summary>
    public static int Direct => IsArm ? 0x10000 : 0x4000;

    /// <summary>O_DIRECTORY: fail with ENOTDIR on anything else.</summary>
    public static int Directory => IsArm ? 0x4000 : 0x10000;

    /// <summary>O_NOFOLLOW: fail with ELOOP where the last component is a symbolic link.</summary>
    public static int NoFollow => IsArm ? 0x8000 : 0x20000;
}

/// <summary>What openat2(2) refuses while it resolves a name (RESOLVE_*).</summary>
[Flags]
public enum ResolveFlags : ulong
{
    /// <summary>Resolve as open(2) does.</summary>
    None = 0,

    /// <summary>ELOOP where a link of /proc would be followed.</summary>
    NoMagicLinks = 0x02,

    /// <summary>ELOOP where any symbolic link would be followed.</summary>
    NoSymlinks = 0x04,

    /// <summary>EXDEV where the name leaves the directory, by "..", by an absolute name or by a link.</summary>
    Beneath = 0x08,
}

/// <summary>What fallocate(2) does with a range.</summary>
[Flags]
public enum FallocateMode
{
    /// <summary>Reserve space, and grow the file where the range reaches past its end.</summary>
    Allocate = 0,

    /// <summary>Leave the file's size alone.</summary>
    KeepSize = 0x01,

    /// <summary>Give the space back; the range reads as zeroes. Needs <see cref="KeepSize"/>.</summary>
    PunchHole = 0x02,

    /// <summary>The range reads as zeroes and keeps its space.</summary>
    ZeroRange = 0x10,
}

/// <summary>Where lseek(2) seeks.</summary>
public enum SeekWhence
{
    /// <summary>From the end of the file.</summary>
    End = 2,

    /// <summary>To the first byte of data at or after the offset.</summary>
    Data = 3,

    /// <summary>To the first byte of a hole at or after the offset; the end of the file counts as one.</summary>
    Hole = 4,
}
