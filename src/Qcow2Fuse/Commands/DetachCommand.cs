// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Loop;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Stacks;

namespace Qcow2Fuse.Commands;

/// <summary>
/// <c>qcow2fuse detach</c>: takes away what <see cref="AttachCommand"/> has set up, and returns when the image is
/// written and free.
/// </summary>
internal static class DetachCommand
{
    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Argument<string> target = new("DEVICE") { Description = "The device, /dev/loopN, or the image" };
        Command command = new("detach", "Take an attached image away again") { target };
        command.SetAction(parsed => Run(parsed.GetRequiredValue(target)));
        return command;
    }

    private static int Run(string target)
    {
        AttachCommand.RequireRoot();
        int number = LoopDevice.NumberOf(LinuxPath.Full(target));
        string image = LinuxPath.Full(target);
        FileIdentity? meant = number >= 0 ? null : FileIdentity.At(image);
        List<Stack> found = [.. Stack.ReadAll().Where(stack => number >= 0
            ? stack.Loops.Any(loop => loop.Loop.Number == number)
            : stack.IsAttached && (string.Equals(stack.Image, image, StringComparison.Ordinal)
                || (meant is not null && FileIdentity.At(stack.Image) == meant)))];
        if (found.Count == 0)
            throw new CommandException(ExitCode.Failure, $"{target}: no image is attached here");
        if (found.Find(static stack => !stack.IsAttached) is { } foreign)
        {
            throw new CommandException(
                ExitCode.Failure,
                $"{target}: not made by attach: {foreign.Image} is mounted on {foreign.Mount.MountPoint}",
                foreign.IsForFileSystem ? Advice.ToUnmount(foreign) : Advice.ToClearDevice(target));
        }

        foreach (Stack stack in found)
            TakeAway(stack);
        return ExitCode.Success;
    }

    private static void TakeAway(Stack stack)
    {
        using DaemonEnd? end = stack.ProcessId is { } daemon ? DaemonEnd.Watch(daemon) : null;
        bool isFree = true;
        bool isDead = stack.ProcessId is null;
        foreach (StackedLoop loop in stack.Loops)
            isFree &= Clear(loop, isDead);
        try
        {
            FuseMount.Unmount(stack.Mount, lazy: !isFree || isDead);
        }
        catch (FuseMountException) when (MountTable.Find(stack.Mount) is null)
        {
            // Without its device the mount ends by itself.
        }
        catch (FuseMountException exception)
        {
            throw new CommandException(ExitCode.Failure, exception.Message, Advice.For(exception), exception);
        }

        PrivateMount.RemoveDirectory(stack.Mount.MountPoint);
        if (!isFree)
            Report.Warning($"{stack.Image} is in use until the last user of its device closes it");
        else
            end?.Wait(stack.Image, ExitCode.Failure);
    }

    /// <summary>False where somebody has the device open, so that it goes only when he closes it.</summary>
    private static bool Clear(StackedLoop loop, bool isDead)
    {
        int device = LoopDevice.OpenExclusively(loop.Loop.Number);
        if (device == -Errno.EBUSY)
        {
            string where = loop.MountPoints.Count > 0 ? $"mounted on {loop.MountPoints[0]}" : "in use";
            throw new CommandException(
                ExitCode.Failure,
                $"{loop.Loop.Path}: {where}",
                loop.MountPoints.Count > 0 ? Advice.ToFreeDevice(loop.MountPoints[0]) : null);
        }

        if (device < 0)
            throw new CommandException(ExitCode.Failure, $"{loop.Loop.Path}: {Errno.Text(-device)}");
        int result;
        try
        {
            // What was left of a dead one is lost, and nothing that waits could bring it back.
            if (!isDead)
            {
                LoopEnd.WriteOut(
                    device, loop.Loop.Path, "it stays attached", ExitCode.Failure,
                    $"{Advice.ToClearDevice(loop.Loop.Path)} takes it away all the same");
            }

            result = LoopDevice.Clear(device);
        }
        finally
        {
            _ = LinuxFile.Close(device);
        }

        if (result < 0 && result != -Errno.ENXIO)
            throw new CommandException(ExitCode.Failure, $"{loop.Loop.Path}: {Errno.Text(-result)}");
        return LoopEnd.HasLetGo(loop.Loop);
    }
}
