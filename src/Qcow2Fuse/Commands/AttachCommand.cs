// SPDX-License-Identifier: MIT
using System.CommandLine;
using System.Globalization;
using Qcow2Fuse.Linux;
using Qcow2Fuse.Output;
using Qcow2Fuse.Stacks;

namespace Qcow2Fuse.Commands;

/// <summary><c>qcow2fuse attach</c>: an image as a loop device, for root.</summary>
internal static class AttachCommand
{
    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        StackOptions options = new();
        Argument<string> image = new("IMAGE") { Description = "The image" };
        Option<int?> partition = new("--partition")
        { Description = "Only this partition, the same as -o partition=N", HelpName = "N" };
        Command command = new("attach", "Show an image as a block device and print its name, /dev/loopN")
            { partition, image };
        options.AddTo(command);
        command.SetAction(parsed =>
        {
            string[] only = parsed.GetValue(partition) is { } number
                ? [string.Create(CultureInfo.InvariantCulture, $"partition={number}")]
                : [];
            return Run(parsed.GetRequiredValue(image), ["prefer_direct", .. options.WordsOf(parsed), .. only]);
        });
        return command;
    }

    private static int Run(string image, IReadOnlyList<string> options)
    {
        RequireRoot();
        using PrivateMount? mount = PrivateMount.Start("attach", image, options, tied: false, out int exitCode);
        if (mount is null)
            return exitCode;
        int device = AttachTo(mount, autoClear: false, out int number);
        _ = LinuxFile.Close(device);
        StandardOutput.WriteLine(LoopDevice.PathOf(number));
        return ExitCode.Success;
    }

    /// <summary>Loop devices are root's.</summary>
    public static void RequireRoot()
    {
        if (MountCalls.EffectiveUser() != 0)
        {
            throw new CommandException(
                ExitCode.Failure, "loop devices are for root only", "qcow2fuse mount shows the disk as a raw file");
        }
    }

    /// <summary>Sets up a loop device on the raw file of a mount, which is unmounted where that fails.</summary>
    /// <returns>A descriptor of the device.</returns>
    public static int AttachTo(PrivateMount mount, bool autoClear, out int number)
    {
        int device = LoopDevice.Attach(mount.RawFile, new LoopSettings(mount.IsReadOnly, autoClear), out number);
        if (device >= 0)
            return device;
        mount.End(ExitCode.Failure);
        throw new CommandException(
            ExitCode.Failure,
            $"no loop device can be set up: {Errno.Text(-device)}",
            File.Exists("/dev/loop-control") ? null : "there is no /dev/loop-control: modprobe loop");
    }
}
