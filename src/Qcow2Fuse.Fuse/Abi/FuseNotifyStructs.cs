// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Fuse.Abi;

/// <summary>Messages that are a header without a request and nothing else.</summary>
internal static class FuseNotifyCodes
{
    /// <summary>FUSE_NOTIFY_RESEND: what was read and not answered is to be sent again.</summary>
    public const int Resend = 7;
}

/// <summary>A header without a request, then struct fuse_notify_inval_inode_out.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FuseNotifyInvalidate
{
    /// <summary>FUSE_NOTIFY_INVAL_INODE, in the place of the error number.</summary>
    public const int Code = 2;

    public FuseOutHeader Header;
    public ulong Node;

    /// <summary>First byte; negative for the attributes alone.</summary>
    public long Offset;

    /// <summary>Bytes; 0 for all behind the first.</summary>
    public long Length;
}
