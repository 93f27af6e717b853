// SPDX-License-Identifier: MIT
using Qcow2Fuse.Control.Client;
using Qcow2Fuse.Daemon;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Commands;

/// <summary>
/// <c>-o remount</c> as mount(8) hands it over: the kernel's flags of a mount change (ro, rw, noatime and such), and
/// nothing of what its daemon was started with.
/// </summary>
internal static class RemountCall
{
    /// <summary>Changes the flags of the mount on the directory of the settings.</summary>
    /// <exception cref="CommandException">Nothing is mounted there, or the kernel refuses it.</exception>
    public static int Run(MountSettings settings)
    {
        string directory = settings.Directory
            ?? throw CommandException.Usage("the mount point is missing", "qcow2fuse mount -o remount,ro SRC DIR");
        MountEntry? entry = MountTable.FindAt(MountPoint.Resolve(directory));
        if (!OwnMount.Is(entry))
            throw new CommandException(ExitCode.MountFailed, $"{directory}: no image is mounted here");
        if (!settings.ReadOnly && IsOpenedReadOnly(entry))
        {
            throw new CommandException(
                ExitCode.MountFailed,
                $"{directory}: its daemon has opened the image read-only",
                Advice.ToMountAgain(directory));
        }

        MountSpec spec = new() { MountPoint = entry.MountPoint, Source = entry.Source };
        if (settings.ReadOnly)
            spec = spec with { Flags = spec.Flags | MountFlags.ReadOnly };
        try
        {
            FuseMount.Remount(entry, MountRequest.WithFlags(spec, settings).Flags);
        }
        catch (FuseMountException exception)
        {
            throw new CommandException(ExitCode.MountFailed, exception.Message, Advice.For(exception), exception);
        }

        return ExitCode.Success;
    }

    /// <summary>Whether the daemon says so; one that cannot be asked answers writes with EROFS.</summary>
    private static bool IsOpenedReadOnly(MountEntry entry)
    {
        if (DaemonTable.Read().Find(entry) is not { } process || DaemonSocket.Find(process) is not { } socket)
            return false;
        using ControlClient client = new(socket);
        return client.TryGetMounts()?.Mounts.FirstOrDefault(mount => mount.Connection == entry.Minor) is
            { IsReadOnly: true };
    }
}
