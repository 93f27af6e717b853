// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Transport;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>What INIT agreed upon.</summary>
/// <param name="Minor">Minor version of the protocol both sides speak.</param>
/// <param name="Flags">Features both sides have.</param>
/// <param name="MaxWrite">Largest write in bytes.</param>
internal readonly record struct FuseAgreement(uint Minor, FuseInitFlags Flags, int MaxWrite);

/// <summary>The first request of a session: versions, features and sizes.</summary>
internal static class FuseNegotiation
{
    // Without FUSE_MAX_PAGES a request has at most 32 pages.
    private const int MaxWriteWithoutMaxPages = 32 * FuseSlot.PageSize;

    private const FuseInitFlags Wanted = FuseInitFlags.AsyncRead
        | FuseInitFlags.BigWrites
        | FuseInitFlags.AsyncDio
        | FuseInitFlags.ParallelDirOps
        | FuseInitFlags.MaxPages
        | FuseInitFlags.AtomicOTrunc
        | FuseInitFlags.ExplicitInvalData
        | FuseInitFlags.HandleKillPrivV2
        | FuseInitFlags.InitExt
        | FuseInitFlags.DirectIOAllowMmap
        | FuseInitFlags.HasResend;

    /// <summary>
    /// Answers INIT. Null where the kernel speaks a newer major version, which asks again after this answer.
    /// </summary>
    /// <param name="rings">Whether there are rings. A kernel that is told so waits until each queue has one.</param>
    public static FuseAgreement? Agree(
        in FuseInitIn request, FuseServerOptions options, bool rings, out FuseInitOut reply)
    {
        reply = new FuseInitOut { Major = FuseAbi.MajorVersion, Minor = FuseAbi.MinorVersion };
        if (request.Major > FuseAbi.MajorVersion)
            return null;

        FuseInitFlags offered = (FuseInitFlags)request.Flags;
        if (offered.HasFlag(FuseInitFlags.InitExt))
            offered |= (FuseInitFlags)((ulong)request.Flags2 << 32);

        FuseInitFlags flags = offered & Wanted;
        if (rings)
            flags |= offered & FuseInitFlags.OverIOUring;
        int maxWrite = flags.HasFlag(FuseInitFlags.MaxPages)
            ? options.MaxWrite
            : Math.Min(options.MaxWrite, MaxWriteWithoutMaxPages);

        reply.MaxReadAhead = request.MaxReadAhead;
        reply.Flags = (uint)flags;
        reply.Flags2 = (uint)((ulong)flags >> 32);
        reply.MaxBackground = (ushort)options.MaxBackground;
        reply.CongestionThreshold = (ushort)(options.MaxBackground * 3 / 4);
        reply.MaxWrite = (uint)maxWrite;
        reply.MaxPages = (ushort)(maxWrite / FuseSlot.PageSize);
        reply.TimeGranularity = 1;
        return new FuseAgreement(Math.Min(request.Minor, FuseAbi.MinorVersion), flags, maxWrite);
    }
}
