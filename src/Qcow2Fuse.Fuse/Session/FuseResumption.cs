// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>
/// What a session agreed upon with the kernel, so that another process can go on with it: the kernel says INIT once.
/// </summary>
/// <param name="Minor">Minor version of the protocol both sides speak.</param>
/// <param name="Features">Features both sides have (FUSE_* of INIT).</param>
/// <param name="MaxWrite">Largest write in bytes.</param>
public readonly record struct FuseResumption(uint Minor, ulong Features, int MaxWrite)
{
    /// <summary>
    /// Whether this program can serve it: earlier versions let the kernel collect writes (FUSE_WRITEBACK_CACHE), and be
    /// the master of the size.
    /// </summary>
    public bool CanBeServed => !((FuseInitFlags)Features).HasFlag(FuseInitFlags.WritebackCache);

    /// <summary>
    /// Whether requests that a dead process had in work can be had again (FUSE_HAS_RESEND, Linux 6.9), as long as the
    /// descriptors they were read from are open.
    /// </summary>
    public bool CanResend => ((FuseInitFlags)Features).HasFlag(FuseInitFlags.HasResend);
}
