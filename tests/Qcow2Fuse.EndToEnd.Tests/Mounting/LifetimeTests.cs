// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>How a mount begins and how it ends.</summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed class LifetimeTests : MountTest
{
    [SkippableFact]
    public void The_file_answers_when_the_command_returns()
    {
        string mountPoint = NewMountPoint();
        string raw = Mount(NewImage(), mountPoint);

        Assert.Equal(64 << 20, new FileInfo(raw).Length);
        Assert.Equal([raw], Directory.GetFileSystemEntries(mountPoint));
        string[] mounted = Tool("findmnt", "-rn", "-o", "SOURCE,FSTYPE", mountPoint).Trim().Split(' ');
        Assert.Equal([PathOf("disk.qcow2"), "fuse.qcow2fuse"], mounted);
    }

    [SkippableFact]
    public void A_successful_start_says_nothing_to_a_script()
    {
        ProcessResult result = Run(NewImage(), NewMountPoint());
        Assert.Equal((0, "", ""), (result.ExitCode, result.Output, result.Error));
    }

    [SkippableFact]
    public void The_daemon_stands_outside_of_all_mounts()
    {
        string mountPoint = NewMountPoint();
        Mount(NewImage(), mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Assert.Equal("/", new FileInfo($"/proc/{daemon}/cwd").LinkTarget);
        foreach (string stream in (string[])["0", "1", "2"])
            Assert.Equal("/dev/null", new FileInfo($"/proc/{daemon}/fd/{stream}").LinkTarget);
    }

    [SkippableTheory]
    [InlineData("TERM")]
    [InlineData("INT")]
    [InlineData("HUP")]
    public void A_signal_unmounts_and_ends_with_success(string signal)
    {
        string mountPoint = NewMountPoint();
        using Process daemon = StartInForeground(NewImage(), mountPoint);
        WriteStamp(RawFileOf("disk.qcow2", mountPoint));

        Signal(daemon.Id, signal);

        Assert.True(daemon.WaitForExit(Eventually.Patience), "the daemon does not end");
        Assert.Equal(0, daemon.ExitCode);
        Assert.False(IsMounted(mountPoint));
        ShouldHoldStamp("disk.qcow2");
    }

    [SkippableTheory]
    [InlineData("umount")]
    [InlineData("fusermount3 -u")]
    [InlineData("umount -l")]
    [InlineData("qcow2fuse umount")]
    [InlineData("qcow2fuse umount -l")]
    public void An_unmount_from_outside_ends_with_success(string command)
    {
        string mountPoint = NewMountPoint();
        using Process daemon = StartInForeground(NewImage(), mountPoint);
        WriteStamp(RawFileOf("disk.qcow2", mountPoint));

        string[] words = command.Split(' ');
        if (words[0] is "qcow2fuse")
            Run([.. words[1..], mountPoint]).ShouldSucceed();
        else
            Tool(words[0], [.. words[1..], mountPoint]);

        Assert.True(daemon.WaitForExit(Eventually.Patience), "the daemon does not end");
        Assert.Equal(0, daemon.ExitCode);
        ShouldHoldStamp("disk.qcow2");
    }

    [SkippableFact]
    public void After_the_umount_command_the_image_is_free()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        for (int i = 0; i < 5; i++)
        {
            string raw = Mount(image, mountPoint);
            using (FileStream file = File.OpenWrite(raw))
                file.Write(Stamp.Bytes(0, 1 << 20, (ulong)i));
            Run("umount", mountPoint).ShouldSucceed();
            QemuTools.ShouldPassCheck(image);
        }
    }

    [SkippableFact]
    public void What_is_not_mounted_cannot_be_unmounted()
    {
        ProcessResult result = Run("umount", NewMountPoint());
        Assert.Equal(32, result.ExitCode);
        OneLine.Error(result, "no image is mounted here");
    }

    [SkippableFact]
    public void A_mount_in_use_stays()
    {
        string mountPoint = NewMountPoint();
        string raw = Mount(NewImage(), mountPoint);
        using (File.OpenRead(raw))
        {
            ProcessResult result = Run("umount", mountPoint);
            Assert.Equal(32, result.ExitCode);
            OneLine.Error(result, $"(pid {Environment.ProcessId}) has disk.raw open");
            Assert.True(IsMounted(mountPoint));
        }

        Run("umount", mountPoint).ShouldSucceed();
    }

    [SkippableFact]
    public void Whoever_keeps_a_mount_in_use_is_named()
    {
        string mountPoint = NewMountPoint();
        string raw = Mount(NewImage(), mountPoint);
        ProcessStartInfo start = new("sleep", ["60"]) { WorkingDirectory = mountPoint };
        using Process user = Process.Start(start)!;
        try
        {
            OneLine.Error(Run("umount", mountPoint), $"in use: sleep (pid {user.Id}) stands in it");
        }
        finally
        {
            user.Kill();
            user.WaitForExit();
        }

        QemuTools.Require(File.Exists("/dev/loop-control"), "there are no loop devices");
        string loop = Tool("losetup", "--find", "--show", raw).Trim();
        try
        {
            OneLine.Error(Run("umount", mountPoint), $"in use: {loop} shows disk.raw");
        }
        finally
        {
            Tool("losetup", "--detach", loop);
        }

        Unmount(mountPoint);
    }

    [SkippableFact]
    public void A_detached_mount_uses_no_processor_and_ends_with_its_last_file()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        string raw = Mount(image, mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        using (FileStream file = new(raw, FileMode.Open, FileAccess.ReadWrite))
        {
            Tool("umount", "-l", mountPoint);
            Eventually.Sleeps(daemon);
            file.Write(Stamp.Bytes(0, 1 << 20, 1));
        }

        WaitForEnd(daemon);
        ShouldHoldStamp("disk.qcow2");
    }

    [SkippableFact]
    public void A_dead_mount_is_taken_over()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        string raw = Mount(image, mountPoint);
        using (FileStream file = new(raw, FileMode.Open, FileAccess.ReadWrite))
        {
            file.Write(Stamp.Bytes(0, 1 << 20, 1));
            file.Flush(flushToDisk: true);
        }

        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Signal(daemon, "KILL");
        WaitForEnd(daemon);
        Assert.False(File.Exists(raw));

        raw = Mount(image, mountPoint);
        using (FileStream file = File.OpenRead(raw))
        {
            byte[] seen = new byte[1 << 20];
            file.ReadExactly(seen);
            Assert.Equal(Stamp.Bytes(0, 1 << 20, 1), seen);
        }

        Unmount(mountPoint);
        Assert.False(IsMounted(mountPoint));
        QemuTools.ShouldPassCheck(image, allowLeaks: true);
    }

    [SkippableFact]
    public void A_dead_mount_on_a_file_is_taken_over()
    {
        string mountPoint = NewMountPoint();
        Directory.Delete(mountPoint);
        File.WriteAllBytes(mountPoint, []);
        string image = NewImage();
        Run("mount", image, mountPoint).ShouldSucceed();

        // A write makes the kernel forget the attributes, with which the dead mount would still look like a file.
        Tool("dd", "if=/dev/zero", "of=" + mountPoint, "bs=4096", "count=1", "conv=notrunc,fdatasync", "status=none");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Signal(daemon, "KILL");
        WaitForEnd(daemon);
        Assert.False(File.Exists(mountPoint));

        Run("mount", image, mountPoint).ShouldSucceed();
        Assert.Equal(64 << 20, new FileInfo(mountPoint).Length);
        Unmount(mountPoint);
        Assert.Equal(0, new FileInfo(mountPoint).Length);
    }

    /// <summary>Whoever looks through all processes touches no file that one of them has open.</summary>
    [SkippableFact]
    public void A_mount_that_does_not_answer_holds_nobody_else_up()
    {
        string hungPoint = NewMountPoint("hung");
        string hung = Mount(NewImage(name: "hung.qcow2"), hungPoint);
        int daemon = Assert.Single(DaemonsOf(hungPoint));
        string mountPoint = NewMountPoint();
        string raw = Mount(NewImage(), mountPoint);
        using FileStream user = File.OpenRead(raw);

        // Another process has it open, and has written: whoever looks at the file has to ask the daemon.
        using Process holder = Process.Start(
            "sh", ["-ec", "exec 3<>\"$1\"; printf x >&3; exec sleep 600", "sh", hung]);
        WaitUntil(() => File.ReadAllText($"/proc/{holder.Id}/comm") == "sleep\n", "it does not get that far");
        StopProcess(daemon);
        try
        {
            ProcessResult result = Run("umount", mountPoint);
            OneLine.Error(result, "in use: ");
            user.Dispose();
            Run("umount", mountPoint).ShouldSucceed();
        }
        finally
        {
            Signal(daemon, "CONT");
            holder.Kill();
            holder.WaitForExit();
        }
    }

    [SkippableFact]
    public void One_mount_point_takes_one_image()
    {
        string mountPoint = NewMountPoint();
        Mount(NewImage(), mountPoint);
        ProcessResult result = Run(NewImage(name: "second.qcow2"), mountPoint);
        Assert.Equal(32, result.ExitCode);
        OneLine.Error(result, mountPoint);
        Assert.Single(DaemonsOf(mountPoint));
    }

    [SkippableFact]
    public void An_idle_or_unmounted_daemon_uses_no_processor()
    {
        string mountPoint = NewMountPoint();
        Mount(NewImage(), mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Eventually.Sleeps(daemon);
        Unmount(mountPoint);
    }

    /// <summary>Without O_TRUNC and ftruncate: a disk keeps its size.</summary>
    private static void WriteStamp(string raw)
    {
        using FileStream file = File.OpenWrite(raw);
        file.Write(Stamp.Bytes(0, 1 << 20, 1));
    }

    private void ShouldHoldStamp(string image)
    {
        QemuTools.ShouldPassCheck(PathOf(image));
        Assert.Equal(Stamp.Bytes(0, 1 << 20, 1), QemuTools.ConvertToRaw(PathOf(image))[..(1 << 20)]);
    }

    private Process StartInForeground(string image, string mountPoint)
    {
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");

        // A shell without job control starts what it puts into the background with SIGINT ignored, nohup(1) with
        // SIGHUP, and a program keeps it so: whoever runs the tests there has handed that on.
        Process daemon = Process.Start("env", ["--default-signal=INT,HUP", program!, "mount", "-f", image, mountPoint]);
        WaitUntil(
            () => daemon.HasExited || File.Exists(RawFileOf(image, mountPoint)), "the raw file does not appear");
        Assert.False(daemon.HasExited, "the daemon ended");
        return daemon;
    }
}
