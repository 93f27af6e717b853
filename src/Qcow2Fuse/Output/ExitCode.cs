// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Fuse.Errors;

namespace Qcow2Fuse.Output;

/// <summary>Exit codes; those of <c>mount</c> and <c>umount</c> are the bits of mount(8).</summary>
internal static class ExitCode
{
    /// <summary>Done.</summary>
    public const int Success = 0;

    /// <summary>Any failure of a command other than mount and umount.</summary>
    public const int Failure = 1;

    /// <summary>mount, umount: wrong usage, or not permitted.</summary>
    public const int Usage = 1;

    /// <summary>mount, umount: the system refused something (memory, processes), or the last flush failed.</summary>
    public const int System = 2;

    /// <summary>check: something is wrong with the image.</summary>
    public const int Corrupt = 2;

    /// <summary>check: space is lost, nothing else.</summary>
    public const int Leaks = 3;

    /// <summary>check: the format has nothing that could be checked.</summary>
    public const int NoCheck = 63;

    /// <summary>A fault of the program itself.</summary>
    public const int Internal = 4;

    /// <summary>mount, umount: it failed; what is to be unmounted is in use, or not mounted.</summary>
    public const int MountFailed = 32;

    /// <summary>run: it failed itself, and the command did not run to its end; as env(1) and others have it.</summary>
    public const int RunFailed = 125;

    /// <summary>mount: the mount was left to the next process, which the service manager starts.</summary>
    public const int HandedOver = 75;

    /// <summary>What a verb on an image ends with when the engine refuses it.</summary>
    public static int Of(BlockException exception) =>
        exception.Cause?.Code == FailureCode.NothingToCheck ? NoCheck : Failure;

    /// <summary>The bit of umount(8) for a failure: 1 for what is not permitted, 32 for all else.</summary>
    public static int OfUnmount(FuseMountError error) =>
        error is FuseMountError.NotPermitted or FuseMountError.OtherUser ? Usage : MountFailed;
}
