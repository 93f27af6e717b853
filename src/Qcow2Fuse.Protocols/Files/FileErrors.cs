// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>Error numbers of the system as failures of a block device.</summary>
internal static class FileErrors
{
    /// <summary>A request on a file that failed.</summary>
    public static BlockException Failed(int errno, string name, BlockRequest request) =>
        BlockException.Failed(name, KindOf(errno), request, Errno.Text(errno));

    /// <summary>A failure of <paramref name="operation"/>, which is no request of a device, on a file.</summary>
    public static BlockException Failed(int errno, string name, string operation) =>
        BlockException.About(name, KindOf(errno), $"{operation} failed: {Errno.Text(errno)}");

    /// <summary>A failure to open a file.</summary>
    public static BlockException NotOpened(int errno, string name, bool readOnly) =>
        BlockException.About(
            name, KindOf(errno), $"cannot be opened{(readOnly ? "" : " for writing")}: {Errno.Text(errno)}");

    private static BlockErrorKind KindOf(int errno) => errno switch
    {
        Errno.ENOSPC or Errno.EDQUOT => BlockErrorKind.NoSpace,
        Errno.EROFS => BlockErrorKind.ReadOnly,
        Errno.EFBIG => BlockErrorKind.TooLarge,
        Errno.ENOENT or Errno.ENOTDIR => BlockErrorKind.NotFound,
        Errno.EACCES or Errno.EPERM => BlockErrorKind.PermissionDenied,
        Errno.EOPNOTSUPP or Errno.ENOSYS => BlockErrorKind.NotSupported,
        Errno.EBUSY or Errno.ETXTBSY => BlockErrorKind.Locked,
        _ => BlockErrorKind.Io,
    };
}
