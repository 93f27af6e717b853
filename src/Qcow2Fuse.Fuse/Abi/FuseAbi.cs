// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse.Abi;

/// <summary>
/// Numbers of the kernel's FUSE protocol, version 7.45 (include/uapi/linux/fuse.h). Kernels down to 7.31 are served.
/// </summary>
internal static class FuseAbi
{
    public const uint MajorVersion = 7;
    public const uint MinorVersion = 45;

    /// <summary>Linux 5.4; it has all that a session relies on without asking.</summary>
    public const uint OldestMinorVersion = 31;

    /// <summary>From here on INIT has 64 bytes, with flags2.</summary>
    public const uint InitExtendedMinorVersion = 36;

    /// <summary>From here on the request header tells the length of extensions behind the request.</summary>
    public const uint ExtensionsMinorVersion = 38;

    public const ulong RootNode = 1;

    public const int InHeaderSize = 40;
    public const int OutHeaderSize = 16;
    public const int WriteInSize = 40;

    /// <summary>Least size of the buffer a request is read into (FUSE_MIN_READ_BUFFER).</summary>
    public const int MinReadBuffer = 8192;

    /// <summary>Largest number the kernel takes as an error; a reply with another is thrown away.</summary>
    public const int MaxErrno = 511;

    /// <summary>Longest name in bytes that Linux's own file systems take.</summary>
    public const int MaxName = 255;

    /// <summary>FUSE_FSYNC_FDATASYNC.</summary>
    public const uint FsyncDataOnly = 1;

    /// <summary>FUSE_WRITE_CACHE.</summary>
    public const uint WriteFromCache = 1;

    /// <summary>O_DSYNC and __O_SYNC in the flags of a WRITE.</summary>
    public const uint SynchronousFlags = 0x1000 | 0x100000;
}
