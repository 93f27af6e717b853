// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Stacks;

/// <summary>What is still used elsewhere, and what could not be stored, is said at once.</summary>
public sealed class EndOfDeviceTests : StackTest
{
    /// <summary>Short of the five minutes for which a daemon that ends is waited for.</summary>
    private static readonly TimeSpan AtOnce = TimeSpan.FromMinutes(2);

    [SkippableTheory]
    [InlineData("mnt")]
    [InlineData("disk.qcow2")]
    public void An_unmount_says_where_else_the_mount_is(string named)
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string other = NewMountPoint("other");
        Mount(image, mountPoint);
        Tool("mount", "--bind", mountPoint, other);
        try
        {
            ProcessResult result = Run(AtOnce, "umount", PathOf(named));
            Assert.Equal(2, result.ExitCode);
            Assert.Contains($"unmounted here, but still mounted on {other}\n", result.Error, StringComparison.Ordinal);
            Assert.EndsWith($"hint: qcow2fuse umount {other}\n", result.Error, StringComparison.Ordinal);
        }
        finally
        {
            Run("umount", other).ShouldSucceed();
        }

        Assert.Empty(MountPointsOf(image));
        Assert.Empty(DaemonsOf(mountPoint));
    }

    [SkippableFact]
    public void An_unmount_of_a_file_system_says_that_somebody_has_its_device_open()
    {
        RequireLoopDevices();
        string image = NewImage();
        string device = Run("attach", image).ShouldSucceed().Output.Trim();
        Tool("mkfs.ext4", "-q", device);
        Run("detach", device).ShouldSucceed();
        string directory = PathOf("fs");
        Directory.CreateDirectory(directory);
        Run("mount", "--fs", image, directory).ShouldSucceed();
        string mountPoint = Assert.Single(MountPointsOf(image));
        string loop = Assert.Single(LoopsIn(mountPoint));
        using (FileStream held = File.OpenRead(loop))
        {
            ProcessResult result = Run(AtOnce, "umount", directory);
            Assert.Equal(2, result.ExitCode);
            OneLine.Error(result, $"somebody has {loop} open; {image} is in use until it is closed");
        }

        WaitUntil(() => MountPointsOf(image).Count == 0, "the image stays mounted");
        WaitUntil(() => DaemonsOf(mountPoint).Count == 0, "the daemon does not end");
        ShouldBeGone(image, mountPoint);
    }

    /// <summary>
    /// A device may have users that are not seen from here, so that it is waited for longer, and that is said.
    /// </summary>
    [SkippableFact]
    public void A_stop_says_how_long_it_waits_for_a_device()
    {
        RequireLoopDevices();
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string script = "exec \"$0\" mount --foreground \"$1\" \"$2\" 2>&1";
        using RunningProcess daemon = RunningProcess.Start("sh", ["-c", script, FindProgram()!, image, mountPoint]);
        string raw = RawFileOf(image, mountPoint);
        WaitUntil(() => File.Exists(raw), $"{raw} does not appear");
        string device = Tool("losetup", "-f", "--show", raw).Trim();
        Signal(Assert.Single(DaemonsOf(mountPoint)), "TERM");
        string? line;
        do
        {
            line = daemon.ReadLine();
        }
        while (line?.Contains("to let go", StringComparison.Ordinal) == false);
        Tool("losetup", "-d", device);
        Assert.Contains("they have at most 80 s to let go", line, StringComparison.Ordinal);
        WaitUntil(() => DaemonsOf(mountPoint).Count == 0, "the daemon does not end");
    }

    /// <summary>A buffered write to a device is a success before anybody has tried to store it.</summary>
    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_the_kernel_could_not_store_is_said_by_whoever_takes_the_device_away(bool isFileSystem)
    {
        RequireLoopDevices();
        string small = PathOf("small");
        Directory.CreateDirectory(small);
        Tool("mount", "-t", "tmpfs", "-o", "size=8M", "none", small);
        string image = NewImage(name: "small/disk.qcow2");
        string directory = PathOf("fs");
        Directory.CreateDirectory(directory);
        try
        {
            string device = Run("attach", image).ShouldSucceed().Output.Trim();
            string mountPoint = Assert.Single(MountPointsOf(image));
            if (isFileSystem)
            {
                Tool("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-O", "^has_journal", device);
                Run("detach", device).ShouldSucceed();
                Run("mount", "--fs", image, directory).ShouldSucceed();
                mountPoint = Assert.Single(MountPointsOf(image));
            }

            string written = isFileSystem ? Path.Combine(directory, "data") : device;
            TryTool("dd", "if=/dev/urandom", "of=" + written, "bs=1M", "count=24", "conv=notrunc", "status=none");
            ProcessResult result = isFileSystem ? Run("umount", directory) : Run("detach", device);
            Assert.Equal(isFileSystem ? 2 : 1, result.ExitCode);
            Assert.Contains("not all that was written could be stored", result.Error, StringComparison.Ordinal);
            Assert.Single(LoopsIn(mountPoint));
            Assert.Single(MountPointsOf(image));
            TryTool("umount", "-l", directory);
            TryTool("losetup", "-d", device);
            WaitUntil(() => MountPointsOf(image).Count == 0, "the image stays mounted");
        }
        finally
        {
            TryTool("umount", "-l", directory);
            foreach (string mountPoint in MountPointsOf(image))
            {
                foreach (string loop in LoopsIn(mountPoint))
                    TryTool("losetup", "-d", loop);
                foreach (int daemon in DaemonsOf(mountPoint))
                    TryTool("/bin/kill", "-KILL", daemon.ToString(CultureInfo.InvariantCulture));
                TryTool("umount", "-l", mountPoint);
            }

            TryTool("umount", "-l", small);
        }
    }
}
