// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.EndToEnd.Tests.Stacks;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>Whoever takes a mount away hears how it has ended. strace delays or fails what the daemon makes durable.
/// </summary>
public sealed class EndOfMountTests : StackTest
{
    private const string Slow = "fdatasync:delay_exit=1500000";
    private const string Failing = "fdatasync:error=EIO";
    private const string Lost = "the last flush failed, written data may be lost";

    [SkippableTheory]
    [InlineData("disk.qcow2", "")]
    [InlineData("disk.qcow2", "fsname=web")]
    [InlineData("disk.qcow2", "no_lock")]
    [InlineData("images", "")]
    public void Umount_returns_when_everything_is_written(string source, string options)
    {
        string directory = PathOf("images");
        Directory.CreateDirectory(directory);
        string image = source == "images" ? NewImage(name: "images/disk.qcow2") : NewImage();
        string mountPoint = NewMountPoint();
        using Process traced = StartTraced(
            Slow, "mount", "--foreground", "-o", "rw" + (options.Length > 0 ? "," + options : ""), PathOf(source),
            mountPoint);
        string raw = WaitForFile(traced, image, mountPoint);
        WriteStamp(raw);

        Run("umount", mountPoint).ShouldSucceed();

        // A copy made now has everything, and nobody writes to the image any more.
        Assert.Empty(DaemonsOf(mountPoint));
        ShouldHoldStamp(Path.GetRelativePath(WorkDirectory, image));
        Assert.True(traced.WaitForExit(Eventually.Patience));
    }

    [SkippableTheory]
    [InlineData("disk.qcow2")]
    [InlineData("mnt")]
    public void Umount_fails_where_the_last_flush_does(string named)
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        using Process traced = StartTraced(Failing, "mount", "--foreground", image, mountPoint);
        string raw = WaitForFile(traced, image, mountPoint);
        WriteStamp(raw);

        ProcessResult result = Run("umount", PathOf(named));

        // Asked over the image, the daemon keeps the mount, and what is in its memory, for another attempt.
        bool isKept = named == "disk.qcow2";
        Assert.NotEqual(0, result.ExitCode);
        OneLine.Error(result, isKept ? "Input/output error" : Lost);
        if (!isKept)
            Assert.Equal(2, result.ExitCode);
        Assert.Equal(isKept, IsMounted(mountPoint));
        if (isKept)
            Assert.Equal(2, Run("umount", mountPoint).ExitCode);
        Assert.True(traced.WaitForExit(Eventually.Patience));
        Assert.Equal(2, traced.ExitCode);
    }

    [SkippableFact]
    public void Umount_fails_where_the_daemon_dies_meanwhile()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        using Process traced = StartTraced(
            "fdatasync:delay_exit=60000000", "mount", "--foreground", image, mountPoint);
        WriteStamp(WaitForFile(traced, image, mountPoint));
        int daemon = Assert.Single(DaemonsOf(mountPoint), id => id != traced.Id);
        using Process unmounting = Launch("umount", mountPoint);
        WaitUntil(() => !IsMounted(mountPoint), "it stays mounted");
        Signal(daemon, "KILL");
        Assert.True(unmounting.WaitForExit(Eventually.Patience));
        Assert.Equal(2, unmounting.ExitCode);
        Assert.Contains("died", unmounting.StandardError.ReadToEnd(), StringComparison.Ordinal);
        traced.Kill();
        Assert.True(traced.WaitForExit(Eventually.Patience));
    }

    [SkippableFact]
    public void Detach_fails_where_the_last_flush_does()
    {
        RequireLoopDevices();
        string image = NewImage();
        using Process traced = StartTraced(Failing, "attach", image);
        string loop = traced.StandardOutput.ReadLine()!;
        Tool("dd", "if=/dev/urandom", "of=" + loop, "bs=64k", "count=4", "status=none");

        ProcessResult result = Run("detach", loop);

        // The device is flushed first, and stays as long as that fails.
        Assert.Equal(1, result.ExitCode);
        Assert.Contains(
            $"{loop}: not all that was written could be stored: Input/output error; it stays attached",
            result.Error, StringComparison.Ordinal);
        Assert.Single(MountPointsOf(image));
        Tool("losetup", "-d", loop);
        Assert.True(traced.WaitForExit(Eventually.Patience));
        Assert.Empty(MountPointsOf(image));
    }

    [SkippableFact]
    public void Run_fails_where_the_last_flush_does()
    {
        string image = NewImage();
        using Process traced = StartTraced(
            Failing, "run", image, "--",
            "sh", "-c", "printf hello | dd of=\"$QCOW2FUSE_DISK\" conv=notrunc status=none");
        string errors = traced.StandardError.ReadToEnd();
        Assert.True(traced.WaitForExit(Eventually.Patience));
        Assert.Equal(125, traced.ExitCode);
        Assert.Contains(Lost, errors, StringComparison.Ordinal);
        Assert.Empty(MountPointsOf(image));
    }

    /// <summary>As at a shutdown, where a service manager ends services before it unmounts.</summary>
    [SkippableFact]
    public void A_signal_takes_the_file_system_inside_away_before_its_daemon()
    {
        RequireLoopDevices();
        string image = NewImage("256M");
        Run("run", image, "--", "sh", "-c", "mkfs.ext4 -q -F \"$QCOW2FUSE_DISK\"").ShouldSucceed();
        string directory = PathOf("fs");
        Directory.CreateDirectory(directory);
        Run("mount", "--fs", image, directory).ShouldSucceed();
        byte[] written = Stamp.Bytes(0, 8 << 20, 3);
        File.WriteAllBytes(Path.Combine(directory, "data"), written);
        int daemon = Assert.Single(DaemonsOf(Assert.Single(MountPointsOf(image))));

        Signal(daemon, "TERM");
        WaitForEnd(daemon);

        Assert.DoesNotContain(
            File.ReadLines("/proc/self/mounts"),
            line => line.Contains($" {directory} ", StringComparison.Ordinal));
        QemuTools.ShouldPassCheck(image);
        Run("mount", "--fs", "-r", image, directory).ShouldSucceed();
        Assert.Equal(written, File.ReadAllBytes(Path.Combine(directory, "data")));
        Run("umount", directory).ShouldSucceed();
    }

    [SkippableFact]
    public void Where_nothing_is_mounted_a_quiet_umount_succeeds()
    {
        SetEnvironment("QCOW2FUSE_DIRECTORY", NewMountPoint());
        ProcessResult result = Run("umount", "-q");
        Assert.Equal((0, "", ""), (result.ExitCode, result.Output, result.Error));
        Assert.Equal(32, Run("umount").ExitCode);
    }

    /// <summary>Its daemon is stopped, which root sees; nothing is asked of it.</summary>
    [SkippableFact]
    public void A_mount_that_does_not_answer_is_detached()
    {
        string mountPoint = NewMountPoint();
        string raw = Mount(NewImage(), mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        using FileStream open = File.OpenRead(raw);
        StopProcess(daemon);
        try
        {
            Run("umount", "-l", mountPoint).ShouldSucceed();
            Assert.False(IsMounted(mountPoint));
        }
        finally
        {
            Signal(daemon, "CONT");
        }

        open.Close();
        WaitForEnd(daemon);
    }

    /// <summary>What it has not written may be lost: nobody is told that it is not mounted.</summary>
    [SkippableFact]
    public void An_image_whose_daemon_hangs_is_said_to_be_mounted()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint("a mount");
        _ = Mount(image, mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        StopProcess(daemon);
        try
        {
            ProcessResult result = Run("umount", "-q", image);
            Assert.Equal(2, result.ExitCode);
            Assert.Contains(
                string.Create(CultureInfo.InvariantCulture, $"its daemon (pid {daemon}) does not answer"),
                result.Error, StringComparison.Ordinal);
            Assert.Contains($"hint: qcow2fuse umount '{mountPoint}'", result.Error, StringComparison.Ordinal);
            Assert.True(IsMounted(mountPoint.Replace(" ", "\\040", StringComparison.Ordinal)));
        }
        finally
        {
            Signal(daemon, "CONT");
        }

        Run("umount", mountPoint).ShouldSucceed();
    }

    [SkippableFact]
    public void An_image_whose_daemon_has_no_socket_is_unmounted_by_its_name()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        _ = Mount(image, mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        File.Delete(string.Create(CultureInfo.InvariantCulture, $"/run/qcow2fuse/{daemon}.sock"));
        File.CreateSymbolicLink(PathOf("link.qcow2"), image);

        Run("umount", PathOf("link.qcow2")).ShouldSucceed();

        Assert.False(IsMounted(mountPoint));
        Assert.Empty(DaemonsOf(mountPoint));
    }

    /// <summary>Nobody of this namespace has its session, so it may be dead: but nobody answers who is asked.</summary>
    [SkippableFact]
    public void A_mount_whose_daemon_is_not_seen_is_not_waited_for()
    {
        string mountPoint = NewMountPoint();
        _ = Mount(NewImage(), mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        StopProcess(daemon);
        try
        {
            ProcessResult result = TryTool(
                "unshare", "-m", "-p", "-f", "--mount-proc", "timeout", "-s", "KILL", "60", FindProgram()!, "umount",
                mountPoint);
            Assert.Equal((0, ""), (result.ExitCode, result.Error));
        }
        finally
        {
            Signal(daemon, "CONT");
        }
    }

    /// <summary>Whoever owns the directory above may call it otherwise, and put a link there.</summary>
    [SkippableFact]
    public void A_daemon_unmounts_its_own_mount_wherever_that_is()
    {
        RequireMounting();
        string mountPoint = NewMountPoint("home/mnt");
        string system = NewMountPoint("system/mnt");
        _ = Mount(NewImage(), mountPoint);
        _ = Mount(NewImage(name: "other.qcow2"), system);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Directory.Move(PathOf("home"), PathOf("away"));
        Directory.CreateSymbolicLink(PathOf("home"), PathOf("system"));

        Signal(daemon, "TERM");
        WaitForEnd(daemon);

        Assert.False(IsMounted(PathOf("away/mnt")));
        Assert.True(IsMounted(system));
        Unmount(system);
        File.Delete(PathOf("home"));
    }

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

    private Process Launch(params string[] arguments)
    {
        ProcessStartInfo start = new(FindProgram()!) { RedirectStandardError = true, WorkingDirectory = WorkDirectory };
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        return Process.Start(start)!;
    }

    /// <summary>Starts the program under strace, which meddles with a system call of all its processes.</summary>
    private Process StartTraced(string injected, params string[] arguments)
    {
        RequireMounting();
        QemuTools.RequireTool("strace");
        QemuTools.Require(FindProgram() is not null, "out/qcow2fuse is not built");
        ProcessStartInfo start = new(ProcessRunner.Find("strace")!)
        {
            RedirectStandardOutput = true, RedirectStandardError = true, WorkingDirectory = WorkDirectory,
        };
        string[] own =
            ["-f", "-qq", "-o", PathOf("trace"), "-e", "trace=fdatasync", "-e", "inject=" + injected, FindProgram()!];
        foreach (string argument in (string[])[.. own, .. arguments])
            start.ArgumentList.Add(argument);
        return Process.Start(start)!;
    }

    private static string WaitForFile(Process traced, string image, string mountPoint)
    {
        string raw = RawFileOf(image, mountPoint);
        WaitUntil(
            () => File.Exists(raw) || traced.HasExited,
            string.Create(CultureInfo.InvariantCulture, $"{raw} does not appear"));
        Assert.False(traced.HasExited);
        return raw;
    }
}
