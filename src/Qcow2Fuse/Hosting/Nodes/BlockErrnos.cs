// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>Failures of block devices as the error numbers a program sees that uses the raw file.</summary>
internal static class BlockErrnos
{
    /// <summary>The error number (positive) for a failed request.</summary>
    public static int Of(BlockErrorKind kind) => kind switch
    {
        BlockErrorKind.NoSpace => Errno.ENOSPC,
        BlockErrorKind.ReadOnly => Errno.EROFS,
        BlockErrorKind.NotSupported => Errno.EOPNOTSUPP,
        BlockErrorKind.OutOfRange => Errno.EINVAL,
        BlockErrorKind.TooLarge => Errno.EFBIG,
        BlockErrorKind.NoMemory => Errno.ENOMEM,
        BlockErrorKind.NotFound => Errno.ENOENT,
        BlockErrorKind.PermissionDenied or BlockErrorKind.Policy => Errno.EACCES,
        BlockErrorKind.Locked => Errno.EBUSY,
        BlockErrorKind.Io or BlockErrorKind.Corrupt or BlockErrorKind.InvalidFormat
            or BlockErrorKind.UnsupportedFeature => Errno.EIO,
        _ => Errno.EIO,
    };
}
