// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>What is to be known of a write besides its bytes.</summary>
[Flags]
public enum FuseWriteKind
{
    /// <summary>What a program has just written.</summary>
    Plain = 0,

    /// <summary>
    /// It asks to be durable: O_SYNC, O_DSYNC, RWF_DSYNC, or a mount with <c>sync</c>. The kernel sends FSYNC after it
    /// unless the file was opened with <see cref="FuseOpenFlags.DirectIO"/>: then the file system has to see to it.
    /// </summary>
    Synchronous = 1,

    /// <summary>
    /// Whole pages out of the kernel's cache, changed there through mapped memory: what was not changed in them is as
    /// it was when they were read.
    /// </summary>
    FromCache = 2,
}
