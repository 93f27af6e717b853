// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Control.Client;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Loop;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Stacks;

namespace Qcow2Fuse.Commands;

/// <summary><c>qcow2fuse umount</c>: ends a mount, and returns when the image is written and free.</summary>
internal static class UmountCommand
{
    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<bool> lazy = new("-l", "--lazy")
        { Description = "Detach at once although files are open; the daemon ends when they are closed" };
        Option<bool> quiet = new("-q", "--quiet")
        { Description = "Say nothing, and succeed, where nothing is mounted" };
        Argument<string?> directory = new("DIR")
        {
            Description = "The mount point, or the mounted image (default: the directory of the settings)",
            Arity = ArgumentArity.ZeroOrOne,
        };
        Option<bool> dead = new("--dead") { Hidden = true };
        Option<string[]> numbers = new(NumberedUnmount.Option) { Hidden = true };
        Command command = new("umount", "Unmount an image") { lazy, quiet, dead, numbers, directory };
        command.Aliases.Add("unmount");
        command.SetAction(parsed =>
        {
            if (parsed.GetValue(numbers) is { Length: > 0 } mounts)
                return NumberedUnmount.Run(mounts);

            // As of a service, whose unit does not know it.
            bool isQuiet = parsed.GetValue(quiet);
            string? place = parsed.GetValue(directory) ?? SettingsLoader.DirectoryOf(SettingsLoader.Files);
            if (place is not null && parsed.GetValue(dead))
                return DeadMount.Detach(place);
            return place is not null ? Run(place, parsed.GetValue(lazy), isQuiet)
                : isQuiet ? ExitCode.Success
                : throw CommandException.Usage("the mount point is missing", "qcow2fuse umount DIR");
        });
        return command;
    }

    private static int Run(string directory, bool lazy, bool quiet)
    {
        string place = MountPoint.Resolve(directory);
        MountEntry? entry = MountTable.FindAt(place);
        if (FindBelow(entry) is { } stack)
            return RunFileSystem(entry!, lazy, stack);
        if (OwnMount.Is(entry))
            return RunMount(entry, directory, lazy);
        if (LinuxPath.IsFile(directory))
        {
            using RunningImage? running = RunningImage.Find(directory);
            if (running is not null)
                return RunImage(running, lazy, directory);
            if (FindMountOf(directory) is { } mounted)
                return RunSilent(mounted, directory, lazy);
        }

        return quiet
            ? ExitCode.Success
            : throw new CommandException(ExitCode.MountFailed, $"{directory}: no image is mounted here");
    }

    /// <summary>
    /// The mount of an image for which no daemon answers, among those of this user and root: the source of one of
    /// another user is what he likes. Null where there is none.
    /// </summary>
    private static Stack? FindMountOf(string image) => FileIdentity.At(image) is not { } meant ? null
        : Stack.ReadAll().FirstOrDefault(stack =>
            (stack.UserId is null or 0 || stack.UserId == MountCalls.EffectiveUser())
            && FileIdentity.At(stack.Image) == meant);

    /// <summary>
    /// An image whose daemon hangs is left alone, since what it has not written may be lost; one that has no socket, or
    /// is dead, is unmounted by its place.
    /// </summary>
    private static int RunSilent(Stack stack, string image, bool lazy)
    {
        using DaemonSocket? socket = stack.ProcessId is { } process ? DaemonSocket.Find(process) : null;
        return socket is null
            ? RunMount(stack.Mount, image, lazy)
            : throw new CommandException(
                ExitCode.System, $"{image}: its daemon (pid {socket.Process}) does not answer",
                Advice.ToUnmount(stack));
    }

    /// <summary>
    /// Unmounts what this program has mounted. The mount itself is asked nothing: its daemon may be dead or hang.
    /// </summary>
    private static int RunMount(MountEntry mount, string directory, bool lazy)
    {
        DaemonTable daemons = DaemonTable.Read();
        if (daemons.Find(mount) is not { } process)
            return RunUnseen(mount, directory, lazy, daemons.IsHeld(mount));
        using DaemonEnd? end = DaemonEnd.Watch(process);
        Unmount(mount, lazy);
        if (!lazy)
            end?.Wait(directory, ExitCode.System);
        return ExitCode.Success;
    }

    /// <summary>
    /// A mount whose daemon is dead, another user's, or one of this user that lets nobody look at it and is asked over
    /// its socket.
    /// </summary>
    private static int RunUnseen(MountEntry mount, string directory, bool lazy, bool isHeld)
    {
        using ControlClient? client = DaemonFinder.FindClient(mount);
        using DaemonEnd? end = client is null ? null : DaemonEnd.Watch(client.Process);
        if (client is not null && !lazy)
        {
            ControlAnswer answer =
                client.Call("umount", new UmountCall(), ControlJson.Default.UmountCall, directory, ExitCode.System);
            if (answer.Error is { } error)
                throw new CommandException(answer.ExitCode, error, answer.Hint);
        }
        else
        {
            try
            {
                Unmount(mount, lazy);
            }
            catch (CommandException exception) when (
                !lazy && !isHeld && exception.InnerException is FuseMountException { Error: FuseMountError.Busy }
                && DeadMount.IsStale(mount))
            {
                // Nobody can write to a dead mount, so those who have files of it open lose nothing.
                Unmount(mount, lazy: true);
            }
        }

        if (!lazy)
            end?.Wait(directory, ExitCode.System);
        return ExitCode.Success;
    }

    private static void Unmount(MountEntry mount, bool lazy)
    {
        try
        {
            FuseMount.Unmount(mount, lazy);
        }
        catch (FuseMountException exception)
        {
            throw Failed(exception);
        }
    }

    /// <summary>Has the daemon of an image unmount it, after everything has become durable.</summary>
    private static int RunImage(RunningImage running, bool lazy, string image)
    {
        if (running.IsOneOfMany)
        {
            throw new CommandException(
                ExitCode.Usage,
                $"{image}: is one of the images on {running.MountPoint}",
                Advice.ToUnmountAll(running.MountPoint));
        }

        using DaemonEnd? end = DaemonEnd.Watch(running.Process);
        running.FlushKernel(ExitCode.System);
        int exitCode = running.Do(
            "umount", new UmountCall(lazy), ControlJson.Default.UmountCall, ExitCode.System);
        if (!lazy)
            end?.Wait(image, ExitCode.System);
        return exitCode;
    }

    /// <summary>A failure with its bit of umount(8).</summary>
    private static CommandException Failed(FuseMountException exception) =>
        new(ExitCode.OfUnmount(exception.Error), exception.Message, Advice.For(exception), exception);

    /// <summary>The image whose file system <c>mount --fs</c> has mounted at a place; null at others.</summary>
    private static Stack? FindBelow(MountEntry? entry) => LoopDevice.NumberOf(entry?.Source ?? "") >= 0
        ? Stack.ReadAll().FirstOrDefault(stack =>
            stack.Loops.Any(loop => loop.MountPoints.Contains(entry!.MountPoint, StringComparer.Ordinal)))
        : null;

    /// <summary>
    /// Without its file system the loop device goes, and without the device the daemon ends, if they were made so.
    /// </summary>
    private static int RunFileSystem(MountEntry mount, bool lazy, Stack stack)
    {
        using DaemonEnd? end = stack is { IsForFileSystem: true, ProcessId: { } daemon } && !lazy
            ? DaemonEnd.Watch(daemon) : null;
        string directory = mount.MountPoint;
        LoopEntry loop = stack.Loops.First(one => one.MountPoints.Contains(directory, StringComparer.Ordinal)).Loop;
        int result = lazy ? MountRoot.Unmount(mount, lazy) : LoopEnd.Unmount(mount, loop);
        if (result == -Errno.EBUSY)
            throw Failed(FuseMount.Busy(directory));
        if (result < 0)
        {
            throw new CommandException(
                result == -Errno.EPERM ? ExitCode.Usage : ExitCode.MountFailed,
                $"{directory}: {Errno.Text(-result)}");
        }

        if (end is not null)
            LoopEnd.RequireFree(directory, stack.Image, loop);
        end?.Wait(stack.Image, ExitCode.System);
        return ExitCode.Success;
    }
}
