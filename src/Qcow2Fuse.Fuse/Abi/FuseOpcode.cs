// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Abi;

/// <summary>Operations of the protocol (enum fuse_opcode).</summary>
internal enum FuseOpcode : uint
{
    None = 0,
    Lookup = 1,
    Forget = 2,
    GetAttr = 3,
    SetAttr = 4,
    ReadLink = 5,
    SymLink = 6,
    MakeNode = 8,
    MakeDirectory = 9,
    Unlink = 10,
    RemoveDirectory = 11,
    Rename = 12,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    StatFs = 17,
    Release = 18,
    Fsync = 20,
    SetXattr = 21,
    GetXattr = 22,
    ListXattr = 23,
    RemoveXattr = 24,
    Flush = 25,
    Init = 26,
    OpenDir = 27,
    ReadDir = 28,
    ReleaseDir = 29,
    FsyncDir = 30,
    GetLock = 31,
    SetLock = 32,
    SetLockWait = 33,
    Access = 34,
    Create = 35,
    Interrupt = 36,
    BlockMap = 37,
    Destroy = 38,
    Ioctl = 39,
    Poll = 40,
    NotifyReply = 41,
    BatchForget = 42,
    Fallocate = 43,
    ReadDirPlus = 44,
    Rename2 = 45,
    Lseek = 46,
    CopyFileRange = 47,
    SetupMapping = 48,
    RemoveMapping = 49,
    SyncFs = 50,
    TemporaryFile = 51,
    Statx = 52,
    CopyFileRange64 = 53,
}

/// <summary>What has to be known of an operation before its request is looked into.</summary>
internal static unsafe class FuseOpcodes
{
    /// <summary>
    /// Size in bytes of the fixed arguments of the operations that are served, 0 where there are none. A name or
    /// data may follow them.
    /// </summary>
    public static int ArgumentsSize(FuseOpcode opcode) => opcode switch
    {
        FuseOpcode.Init => FuseInitIn.LegacySize,
        FuseOpcode.GetAttr => sizeof(FuseGetAttrIn),
        FuseOpcode.SetAttr => sizeof(FuseSetAttrIn),
        FuseOpcode.Open or FuseOpcode.OpenDir => sizeof(FuseOpenIn),
        FuseOpcode.Read or FuseOpcode.ReadDir => sizeof(FuseReadIn),
        FuseOpcode.Write => sizeof(FuseWriteIn),
        FuseOpcode.Release or FuseOpcode.ReleaseDir => sizeof(FuseReleaseIn),
        FuseOpcode.Flush => sizeof(FuseFlushIn),
        FuseOpcode.Fsync => sizeof(FuseFsyncIn),
        FuseOpcode.Fallocate => sizeof(FuseFallocateIn),
        FuseOpcode.Lseek => sizeof(FuseLseekIn),
        FuseOpcode.CopyFileRange or FuseOpcode.CopyFileRange64 => sizeof(FuseCopyFileRangeIn),
        FuseOpcode.GetXattr or FuseOpcode.ListXattr => sizeof(FuseGetXattrIn),
        _ => 0,
    };

    /// <summary>Whether the kernel expects no reply, not even to a malformed request.</summary>
    public static bool IsUnanswered(FuseOpcode opcode) => opcode
        is FuseOpcode.Forget or FuseOpcode.BatchForget or FuseOpcode.Interrupt or FuseOpcode.NotifyReply;

    /// <summary>
    /// The answer to an operation that no handler serves. ENOSYS makes the kernel do without, mostly for good;
    /// names cannot be changed, and ENOSYS there would read as a fault.
    /// </summary>
    public static int UnservedErrno(FuseOpcode opcode) => opcode switch
    {
        FuseOpcode.SymLink or FuseOpcode.MakeNode or FuseOpcode.MakeDirectory or FuseOpcode.Unlink
            or FuseOpcode.RemoveDirectory or FuseOpcode.Rename or FuseOpcode.Rename2 or FuseOpcode.Link
            or FuseOpcode.Create => Errno.EPERM,
        FuseOpcode.ReadLink => Errno.EINVAL,
        FuseOpcode.Ioctl => Errno.ENOTTY,
        _ => Errno.ENOSYS,
    };
}
