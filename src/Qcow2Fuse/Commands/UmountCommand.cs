// SPDX-License-Identifier: MIT
using System.CommandLine;
using System.Diagnostics;
using Qcow2Fuse.Block;
using Qcow2Fuse.Control;
using Qcow2Fuse.Fuse;
using Qcow2Fuse.Hosting;
using Qcow2Fuse.Linux;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols;
using Qcow2Fuse.Stacks;

namespace Qcow2Fuse.Commands;

/// <summary><c>qcow2fuse umount</c>: ends a mount, and returns when the image is written and free.</summary>
internal static class UmountCommand
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);
    private static readonly TimeSpan Period = TimeSpan.FromMilliseconds(20);

    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<bool> lazy = new("-l", "--lazy")
        { Description = "Detach at once although files are open; the daemon ends when they are closed" };
        Argument<string> directory = new("DIR") { Description = "The mount point, or the mounted image" };
        Command command = new("umount", "Unmount an image") { lazy, directory };
        command.Aliases.Add("unmount");
        command.SetAction(parsed => Run(parsed.GetRequiredValue(directory), parsed.GetValue(lazy)));
        return command;
    }

    private static int Run(string directory, bool lazy)
    {
        MountPoint place = MountPoint.Inspect(directory, MountRequest.Subtype);
        if (FindBelow(place) is { } stack)
            return RunFileSystem(place.Path, lazy, stack);
        if (place.State == MountPointState.Free && File.Exists(directory)
            && RunningImage.Find(directory) is { } running)
        {
            using (running)
                return RunImage(running, lazy, directory);
        }

        if (place.State is not (MountPointState.Mounted or MountPointState.Stale))
            throw new CommandException(ExitCode.MountFailed, $"{directory}: no image is mounted here");
        int? daemon = place is { State: MountPointState.Mounted, Entry: { } served } ? DaemonFinder.Find(served) : null;
        try
        {
            FuseMount.Unmount(place.Path, lazy || place.State == MountPointState.Stale);
        }
        catch (FuseMountException exception)
        {
            throw Failed(exception);
        }

        if (lazy)
            return ExitCode.Success;
        if (daemon is { } process)
            DaemonTable.WaitForEnd(process, directory, Patience);
        else if (place.State == MountPointState.Mounted && place.Entry is { } entry && IsOwn(entry))
            WaitUntilFree(entry.Source);
        return ExitCode.Success;
    }

    /// <summary>Has the daemon of an image unmount it, after everything has become durable.</summary>
    private static int RunImage(RunningImage running, bool lazy, string image)
    {
        if (running.IsOneOfMany)
        {
            throw new CommandException(
                ExitCode.Usage,
                $"{image}: is one of the images on {running.MountPoint}",
                $"qcow2fuse umount {running.MountPoint} unmounts them all");
        }

        running.FlushKernel();
        int exitCode = running.Do("umount", new UmountCall(lazy), ControlJson.Default.UmountCall);
        if (!lazy)
            DaemonTable.WaitForEnd(running.Process, image, Patience);
        return exitCode;
    }

    /// <summary>A failure with its bit of umount(8).</summary>
    private static CommandException Failed(FuseMountException exception) =>
        new(ExitCodeOf(exception.Error), exception.Message, exception.Hint, exception);

    /// <summary>The bit of umount(8) for a failure: 1 for what is not permitted, 32 for all else.</summary>
    public static int ExitCodeOf(FuseMountError error) =>
        error == FuseMountError.NotPermitted ? ExitCode.Usage : ExitCode.MountFailed;

    /// <summary>The image whose file system <c>mount --fs</c> has mounted at a place; null at others.</summary>
    private static Stack? FindBelow(MountPoint place) =>
        place.State == MountPointState.Free && LoopDevice.NumberOf(place.Entry?.Source ?? "") >= 0
            ? Stack.ReadAll().FirstOrDefault(stack =>
                stack.Loops.Any(loop => loop.MountPoints.Contains(place.Path, StringComparer.Ordinal)))
            : null;

    /// <summary>
    /// Without its file system the loop device goes, and without the device the daemon ends, if they were made so.
    /// </summary>
    private static int RunFileSystem(string directory, bool lazy, Stack stack)
    {
        int result = MountCalls.Unmount(directory, lazy);
        if (result == -Errno.EBUSY)
            throw Failed(FuseMount.Busy(directory));
        if (result < 0)
        {
            throw new CommandException(
                result == -Errno.EPERM ? ExitCode.Usage : ExitCode.MountFailed,
                $"{directory}: {Errno.Text(-result)}");
        }

        if (stack.IsForFileSystem && !lazy && stack.ProcessId is { } daemon)
            DaemonTable.WaitForEnd(daemon, stack.Image, Patience);
        return ExitCode.Success;
    }

    /// <summary>What another user's mount calls its source is his word, and nothing to open.</summary>
    private static bool IsOwn(MountEntry entry) => entry.UserId is null || entry.UserId == MountCalls.EffectiveUser();

    /// <summary>
    /// umount(2) returns before the daemon has written everything. It holds its lock on the image until then.
    /// </summary>
    private static void WaitUntilFree(string image)
    {
        Stopwatch waited = Stopwatch.StartNew();
        while (IsHeldByDaemon(image))
        {
            if (waited.Elapsed > Patience)
                throw new CommandException(ExitCode.System, $"{image}: is unmounted, but still being written");
            Thread.Sleep(Period);
        }
    }

    private static bool IsHeldByDaemon(string image)
    {
        try
        {
            using FileDevice file = FileDevice.Open(image, readOnly: true);
            file.Lock(ImageLockMode.Reader);
            return false;
        }
        catch (BlockException exception)
        {
            // What cannot be opened or locked cannot be asked; and another program may have it already.
            return exception.Kind == BlockErrorKind.Locked
                && exception.Message.Contains(Report.ProgramName, StringComparison.Ordinal);
        }
    }
}
