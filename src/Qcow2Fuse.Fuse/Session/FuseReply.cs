// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>Builds replies in the slot of their request.</summary>
internal static unsafe class FuseReply
{
    /// <summary>Builds the reply's header: an error has no payload.</summary>
    /// <param name="slot">The slot.</param>
    /// <param name="unique">The request's number.</param>
    /// <param name="result">Bytes of payload, or a negated error number.</param>
    /// <returns>The reply's length in bytes.</returns>
    public static int Finish(FuseSlot slot, ulong unique, int result)
    {
        // The kernel throws a reply with an error number out of range away, and its request would hang.
        if (result < -FuseAbi.MaxErrno || result > slot.PayloadCapacity)
            result = -Errno.EIO;

        int length = FuseAbi.OutHeaderSize + Math.Max(result, 0);
        *(FuseOutHeader*)slot.Reply = new FuseOutHeader
        {
            Length = (uint)length,
            Error = Math.Min(result, 0),
            Unique = unique,
        };
        return length;
    }

    /// <summary>Makes <paramref name="value"/> the reply's payload and returns its size.</summary>
    public static int Answer<T>(FuseSlot slot, in T value)
        where T : unmanaged
    {
        *(T*)(slot.Reply + FuseAbi.OutHeaderSize) = value;
        return sizeof(T);
    }

    /// <summary>Whether a range can be one of a file.</summary>
    public static bool IsRange(ulong offset, ulong length) =>
        offset <= long.MaxValue && length <= long.MaxValue - offset;
}
