// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Fuse.Abi;

/// <summary>struct fuse_uring_req_header: what an entry of a ring has beside its payload.</summary>
[StructLayout(LayoutKind.Explicit, Size = 288)]
internal struct FuseRingHeaders
{
    /// <summary>Bytes for the request's or the reply's header, and for the fixed arguments behind it.</summary>
    public const int PartSize = 128;

    /// <summary>struct fuse_uring_ent_in_out: flags.</summary>
    [FieldOffset(256)]
    public ulong Flags;

    /// <summary>What the kernel knows the request by.</summary>
    [FieldOffset(264)]
    public ulong CommitId;

    /// <summary>Bytes of payload of the request, then of the reply.</summary>
    [FieldOffset(272)]
    public uint PayloadSize;
}

/// <summary>enum fuse_uring_cmd.</summary>
internal enum FuseRingOperation : uint
{
    None = 0,

    /// <summary>Gives an entry to a queue; completes with a request.</summary>
    Register = 1,

    /// <summary>Brings the reply to a request; completes with the next one.</summary>
    CommitAndFetch = 2,
}

/// <summary>struct iovec: an entry is registered as two of them, its headers and its payload.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct FuseRingVector
{
    public void* Base;
    public nuint Length;
}
