// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Commands;

/// <summary>
/// <c>qcow2fuse umount --dead</c>, for what cleans up behind a service: a mount goes that nobody serves, and that
/// nobody keeps for the next who will. A mount that lives is left alone, whosever it is. A manager gives up what it has
/// kept a moment after the end of a service, and is waited for.
/// </summary>
internal static class DeadMount
{
    /// <summary>How long a mount is watched that is kept and not served.</summary>
    private static readonly TimeSpan KeptPatience = TimeSpan.FromSeconds(10);

    private static readonly TimeSpan KeptPeriod = TimeSpan.FromMilliseconds(100);

    /// <summary>A dead mount says so at once; one whose session somebody keeps does not answer.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);

    /// <summary>Detaches what is dead at a place. Nothing there, or something that lives, is a success.</summary>
    /// <returns>The exit code.</returns>
    /// <exception cref="CommandException">It is dead and cannot be detached.</exception>
    public static int Detach(string directory)
    {
        string place = MountPoint.Resolve(directory);
        if (MountTable.FindAt(place) is not { } mount || !OwnMount.Is(mount))
            return ExitCode.Success;
        if (IsKeptOrServed(mount) || !IsStale(mount))
            return ExitCode.Success;

        try
        {
            FuseMount.Unmount(mount, lazy: true);
            return ExitCode.Success;
        }
        catch (FuseMountException exception)
        {
            throw new CommandException(
                ExitCode.OfUnmount(exception.Error), exception.Message, Advice.For(exception), exception);
        }
    }

    /// <summary>Whether somebody serves a mount, or keeps it for longer than a manager does that is done with it.
    /// </summary>
    private static bool IsKeptOrServed(MountEntry mount)
    {
        Stopwatch waited = Stopwatch.StartNew();
        while (true)
        {
            DaemonTable daemons = DaemonTable.Read();
            if (daemons.Find(mount) is not null)
                return true;
            if (!daemons.IsHeld(mount))
                return false;
            if (waited.Elapsed > KeptPatience)
                return true;
            Thread.Sleep(KeptPeriod);
        }
    }

    /// <summary>
    /// Whether a mount says that nobody has its session. It is asked by a thread that may be left waiting: older
    /// kernels do not tell who keeps a session.
    /// </summary>
    public static bool IsStale(MountEntry mount)
    {
        bool isStale = false;
        Exception? failed = null;
        void Ask() => Guarded.Run(
            () => isStale = !MountRoot.IsServed(mount),
            failure => failed = failure);
        Thread thread = new(Ask) { IsBackground = true, Name = "ask" };
        thread.Start();
        if (!thread.Join(Patience))
            return false;
        if (failed is not null)
            throw new CommandException(ExitCode.System, $"{mount.MountPoint}: {failed.Message}", inner: failed);
        return isStale;
    }
}
