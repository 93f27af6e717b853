// SPDX-License-Identifier: MIT
using System.CommandLine;
using System.Globalization;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Images.Opening;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Loop;
using Qcow2Fuse.Linux.Mounting;
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
        int sectorSize = LoopSectors.GivenBy(options);

        // Whoever takes the device away, losetup(8) too, has the image closed.
        using PrivateMount? mount =
            PrivateMount.Start("attach", image, [.. options, "idle_exit"], tied: false, out int exitCode);
        if (mount is null)
            return exitCode;
        int device = AttachTo(mount, image, sectorSize, autoClear: false, out int number);
        _ = LinuxFile.Close(device);
        StandardOutput.WriteLine(LoopDevice.PathOf(number));
        if (StandardOutput.HasFailed)
            Report.Warning($"{image}: is attached to {LoopDevice.PathOf(number)}");
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
    /// <param name="mount">The mount.</param>
    /// <param name="image">Its image in messages.</param>
    /// <param name="sectorSize">Bytes of a sector of the device; 0 for what the disk has.</param>
    /// <param name="autoClear">The device goes with its last user.</param>
    /// <param name="number">The device's number.</param>
    /// <returns>A descriptor of the device.</returns>
    public static int AttachTo(PrivateMount mount, string image, int sectorSize, bool autoClear, out int number)
    {
        int device = -1;
        number = -1;
        try
        {
            // The mount ends when its last file is closed, so this one stays open for the time between.
            using BlockDevice disk = ImageFile.Open(mount.RawFile, ImageFileUse.LookAnyway);
            int size = LoopSectors.Of(disk, image, sectorSize);
            device = LoopDevice.Attach(mount.RawFile, new LoopSettings(mount.IsReadOnly, autoClear, size), out number);
            if (device >= 0)
                return device;
        }
        finally
        {
            if (device < 0)
                mount.End(ExitCode.Failure);
        }

        string node = LoopDevice.PathOf(number);
        if (device == -Errno.ENOENT && number >= 0)
        {
            throw new CommandException(
                ExitCode.Failure,
                $"{node} is missing",
                string.Create(CultureInfo.InvariantCulture, $"in a container: mknod {node} b 7 {number}"));
        }

        throw new CommandException(
            ExitCode.Failure,
            $"no loop device can be set up: {Errno.Text(-device)}",
            File.Exists("/dev/loop-control") ? null : "there is no /dev/loop-control: modprobe loop");
    }
}
