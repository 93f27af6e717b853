// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Fuse.Abi;

/// <summary>struct fuse_in_header.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FuseInHeader
{
    public uint Length;
    public FuseOpcode Opcode;
    public ulong Unique;
    public ulong Node;
    public uint Uid;
    public uint Gid;
    public uint Pid;

    /// <summary>Length of extensions behind the request in units of 8 bytes.</summary>
    public ushort TotalExtensionLength;
    public ushort Padding;
}

/// <summary>struct fuse_out_header.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FuseOutHeader
{
    public uint Length;

    /// <summary>0 or a negated error number.</summary>
    public int Error;
    public ulong Unique;
}

/// <summary>struct fuse_init_in.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct FuseInitIn
{
    /// <summary>Its size before version 7.36, up to and with <see cref="Flags"/>.</summary>
    public const int LegacySize = 16;

    public uint Major;
    public uint Minor;
    public uint MaxReadAhead;
    public uint Flags;
    public uint Flags2;
    public fixed uint Unused[11];
}

/// <summary>struct fuse_init_out.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct FuseInitOut
{
    public uint Major;
    public uint Minor;
    public uint MaxReadAhead;
    public uint Flags;
    public ushort MaxBackground;
    public ushort CongestionThreshold;
    public uint MaxWrite;

    /// <summary>Granularity of times in nanoseconds.</summary>
    public uint TimeGranularity;
    public ushort MaxPages;
    public ushort MapAlignment;
    public uint Flags2;
    public uint MaxStackDepth;
    public ushort RequestTimeout;
    public fixed ushort Unused[11];
}

/// <summary>Features of INIT (FUSE_*); those above bit 31 travel in the second word.</summary>
[Flags]
internal enum FuseInitFlags : ulong
{
    None = 0,
    AsyncRead = 1UL << 0,
    AtomicOTrunc = 1UL << 3,
    BigWrites = 1UL << 5,
    AsyncDio = 1UL << 15,
    WritebackCache = 1UL << 16,
    ParallelDirOps = 1UL << 18,
    MaxPages = 1UL << 22,
    ExplicitInvalData = 1UL << 25,
    HandleKillPrivV2 = 1UL << 28,
    InitExt = 1UL << 30,
    DirectIOAllowMmap = 1UL << 36,
    HasResend = 1UL << 39,
    OverIOUring = 1UL << 41,
}
