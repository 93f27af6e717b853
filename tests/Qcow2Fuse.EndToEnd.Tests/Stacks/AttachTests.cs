// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text.Json;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Stacks;

/// <summary><c>attach</c>, <c>detach</c>, <c>mount --fs</c> and <c>list</c>.</summary>
public sealed class AttachTests : StackTest
{
    [SkippableFact]
    public void An_attached_image_is_a_block_device_with_direct_io()
    {
        RequireLoopDevices();
        string image = NewImage();
        string device = Attach(image);
        string mountPoint = Assert.Single(MountPointsOf(image));
        string loop = "/sys/block/" + Path.GetFileName(device);
        Assert.Equal(mountPoint + "/disk.raw\n", File.ReadAllText(loop + "/loop/backing_file"));
        Assert.Equal("1\n", File.ReadAllText(loop + "/loop/dio"));
        Assert.Equal("131072\n", File.ReadAllText(loop + "/size"));
        Tool("dd", "if=/dev/urandom", "of=" + PathOf("data"), "bs=1M", "count=8", "status=none");
        Tool("dd", "if=" + PathOf("data"), "of=" + device, "bs=1M", "oflag=direct", "status=none");

        Run("detach", device).ShouldSucceed();

        ShouldBeGone(image, mountPoint);
        QemuTools.ShouldPassCheck(image);
        Assert.Equal(File.ReadAllBytes(PathOf("data")), QemuTools.ConvertToRaw(image)[..(8 << 20)]);
    }

    [SkippableFact]
    public void An_image_is_detached_by_its_own_name_too()
    {
        RequireLoopDevices();
        string image = NewImage();
        string device = Attach(image);
        string mountPoint = Assert.Single(MountPointsOf(image));
        Assert.Contains(
            $"hint: it is attached: qcow2fuse detach {device}", Run("mount", image, NewMountPoint()).Error,
            StringComparison.Ordinal);
        File.CreateSymbolicLink(PathOf("link.qcow2"), image);
        Run("detach", "link.qcow2").ShouldSucceed();
        ShouldBeGone(image, mountPoint);

        ProcessResult again = Run("detach", "disk.qcow2");
        Assert.Equal(1, again.ExitCode);
        OneLine.Error(again, "no image is attached here");
    }

    [SkippableFact]
    public void A_device_in_use_stays()
    {
        RequireLoopDevices();
        string image = NewImage();
        string device = Attach(image);
        Tool("mkfs.ext4", "-q", device);
        string directory = PathOf("a disk");
        Directory.CreateDirectory(directory);
        Tool("mount", device, directory);
        try
        {
            ProcessResult result = Run("detach", device);
            Assert.Equal(1, result.ExitCode);
            OneLine.Error(result, $"mounted on {directory}");
            Assert.Contains($"hint: umount '{directory}'\n", result.Error, StringComparison.Ordinal);
            File.WriteAllText(Path.Combine(directory, "still"), "there");

            JsonElement loop = Assert.Single(Listed(image).GetProperty("loop-devices").EnumerateArray());
            Assert.Equal(directory, Assert.Single(loop.GetProperty("mount-points").EnumerateArray()).GetString());
        }
        finally
        {
            Umount(directory);
        }

        // A mount namespace that somebody made meanwhile holds the file system until it ends.
        ProcessResult last = Run("detach", device);
        WaitUntil(
            () => last.ExitCode == 0 || !last.Error.Contains(": in use", StringComparison.Ordinal)
                || (last = Run("detach", device)).ExitCode == 0,
            "the device stays in use");
        last.ShouldSucceed();
    }

    [SkippableFact]
    public void Read_only_is_read_only()
    {
        RequireLoopDevices();
        string image = NewImage();
        byte[] before = File.ReadAllBytes(image);
        string device = Attach("-r", image);
        Assert.Equal("1\n", File.ReadAllText($"/sys/block/{Path.GetFileName(device)}/ro"));
        Assert.True(Listed(image).GetProperty("read-only").GetBoolean());
        Run("detach", device).ShouldSucceed();
        Assert.Equal(before, File.ReadAllBytes(image));
    }

    [SkippableFact]
    public void A_stack_whose_daemon_was_killed_can_be_detached()
    {
        RequireLoopDevices();
        string image = NewImage();
        string device = Attach(image);
        string mountPoint = Assert.Single(MountPointsOf(image));
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Signal(daemon, "KILL");
        WaitForEnd(daemon);
        Assert.False(Listed(image).TryGetProperty("pid", out _));
        Run("detach", device).ShouldSucceed();
        ShouldBeGone(image, mountPoint);
    }

    [SkippableFact]
    public void What_somebody_else_has_set_up_is_not_taken_away()
    {
        RequireLoopDevices();
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        string device = Tool("losetup", "--find", "--show", raw).Trim();
        try
        {
            ProcessResult result = Run("detach", device);
            Assert.Equal(1, result.ExitCode);
            OneLine.Error(result, "not made by attach");
            Assert.True(IsMounted(mountPoint));
        }
        finally
        {
            Tool("losetup", "-d", device);
        }

        Unmount(mountPoint);
    }

    [SkippableFact]
    public void An_image_that_cannot_be_attached_leaves_nothing()
    {
        RequireLoopDevices();
        ProcessResult result = Run("attach", PathOf("missing.qcow2"));
        Assert.Equal(32, result.ExitCode);
        OneLine.Error(result, "missing.qcow2");
        Assert.Empty(MountPointsOf(PathOf("missing.qcow2")));
    }

    [SkippableTheory]
    [InlineData("umount")]
    [InlineData("qcow2fuse umount")]
    public void A_file_system_is_mounted_in_one_step_and_unmounted_in_one(string unmount)
    {
        RequireLoopDevices();
        string image = NewImage();
        Run("run", image, "--", "sh", "-c", "mkfs.ext4 -q \"$QCOW2FUSE_DISK\"").ShouldSucceed();
        string directory = PathOf("fs");
        Directory.CreateDirectory(directory);
        Run("mount", "--fs", "-o", "noatime", image, directory).ShouldSucceed();
        string mountPoint = Assert.Single(MountPointsOf(image));
        try
        {
            string device = Assert.Single(LoopsIn(mountPoint));
            Assert.Contains(
                $"hint: qcow2fuse umount {directory}\n", Run("detach", device).Error, StringComparison.Ordinal);
            Assert.Contains(
                $"hint: it is mounted: qcow2fuse umount {directory}", Run("mount", image, NewMountPoint()).Error,
                StringComparison.Ordinal);
            Assert.Equal("ext4 rw,noatime", Tool("findmnt", "-rno", "FSTYPE,OPTIONS", directory).Trim());
            File.WriteAllText(Path.Combine(directory, "hello"), "there");
            string text = Run("list").ShouldSucceed().Output;
            Assert.Contains($" on {directory}\n", text, StringComparison.Ordinal);
        }
        finally
        {
            if (unmount is "umount")
                Umount(directory);
            else
                Run("umount", directory).ShouldSucceed();
        }

        if (unmount is "umount")
            WaitUntil(() => DaemonsOf(mountPoint).Count == 0, "the daemon does not end");
        ShouldBeGone(image, mountPoint);
        QemuTools.ShouldPassCheck(image);
        string seen = Run(
            "run", "-r", image, "--", "sh", "-c", "debugfs -R 'cat hello' \"$QCOW2FUSE_DISK\" 2>/dev/null").Output;
        Assert.Equal("there", seen);
    }

    [SkippableFact]
    public void An_image_without_a_file_system_leaves_nothing()
    {
        RequireLoopDevices();
        string image = NewImage();
        string directory = PathOf("fs");
        Directory.CreateDirectory(directory);
        ProcessResult result = Run("mount", "--fs", image, directory);
        Assert.Equal(32, result.ExitCode);
        Assert.Contains("wrong fs type", result.Error, StringComparison.Ordinal);
        Assert.Empty(MountPointsOf(image));
        Run("mount", "-r", image, NewMountPoint()).ShouldSucceed();
    }

    [SkippableFact]
    public void A_mount_that_exits_when_idle_ends_with_its_last_open_file()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        string raw = Mount(image, mountPoint, "-o", "idle_exit");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        using (File.OpenRead(raw))
        {
            using (File.OpenRead(raw))
                Assert.True(IsMounted(mountPoint));
            Eventually.Sleeps(daemon);
            Assert.True(IsMounted(mountPoint));
        }

        WaitForEnd(daemon);
        Assert.False(IsMounted(mountPoint));
        Assert.True(Directory.Exists(mountPoint));
    }

    [SkippableFact]
    public void The_list_says_who_serves_what()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        Mount(image, mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        JsonElement entry = Listed(image);
        Assert.Equal(mountPoint, entry.GetProperty("mount-point").GetString());
        Assert.Equal(daemon, entry.GetProperty("pid").GetInt32());
        Assert.Equal(0, entry.GetProperty("uid").GetInt32());
        Assert.Equal("root", entry.GetProperty("user").GetString());
        Assert.False(entry.GetProperty("attached").GetBoolean());
        Assert.Empty(entry.GetProperty("loop-devices").EnumerateArray());

        string[] lines = Run("list").ShouldSucceed().Output.Split('\n');
        Assert.Matches("^IMAGE +MOUNTED ON +PID +USER +LOOP DEVICES$", lines[0]);
        string number = daemon.ToString(CultureInfo.InvariantCulture);
        Assert.Contains(lines, line => line.Split(' ', StringSplitOptions.RemoveEmptyEntries)
            .SequenceEqual([image, mountPoint, number, "root"], StringComparer.Ordinal));
        Unmount(mountPoint);
        Assert.DoesNotContain(image, Run("list").ShouldSucceed().Output, StringComparison.Ordinal);
    }

    private string Attach(params string[] arguments)
    {
        string device = Run(["attach", .. arguments]).ShouldSucceed().Output;
        Assert.Matches("^/dev/loop[0-9]+\n$", device);
        return device.Trim();
    }
}
