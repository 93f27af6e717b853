// SPDX-License-Identifier: MIT
using Qcow2Fuse.EndToEnd.Tests.Tidy;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>What cleans up behind a service takes a dead mount away, and no other.</summary>
public sealed class DeadMountTests : MountTest
{
    /// <summary>Who keeps the session may be about to give it up, as a manager is behind a stop.</summary>
    [SkippableFact]
    public void One_that_is_kept_goes_when_it_is_kept_no_more()
    {
        QemuTools.RequireTool("python3");
        string mountPoint = NewMountPoint();
        Mount(NewImage(), mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));

        // A copy of one of the daemon's descriptors of the session, by pidfd_getfd(2).
        using RunningProcess keeper = RunningProcess.Start(ProcessRunner.Find("python3")!, ["-c", """
            import ctypes, os, sys
            pid = int(sys.argv[1])
            fd = next(f for f in os.listdir(f'/proc/{pid}/fd') if os.readlink(f'/proc/{pid}/fd/{f}') == '/dev/fuse')
            kept = ctypes.CDLL(None).syscall(438, os.pidfd_open(pid), int(fd), 0)
            print('kept' if kept >= 0 else 'not kept', flush=True)
            sys.stdin.readline()
            """, daemon.ToString(System.Globalization.CultureInfo.InvariantCulture)]);
        Assert.Equal("kept", keeper.ReadLine());
        Signal(daemon, "KILL");
        WaitForEnd(daemon);
        TestThread cleaning = TestThread.Start(() => Run("umount", "--dead", mountPoint).ShouldSucceed());
        WaitUntil(
            () => Directory.EnumerateDirectories("/proc").Any(IsCleaning), "the program does not begin");
        Assert.True(IsMounted(mountPoint));
        keeper.WriteLine("");
        cleaning.ShouldEnd();
        Assert.False(IsMounted(mountPoint));

        bool IsCleaning(string process)
        {
            try
            {
                return File.ReadAllText(process + "/cmdline").EndsWith(
                    "umount\0--dead\0" + mountPoint + "\0", StringComparison.Ordinal);
            }
            catch (IOException)
            {
                return false;
            }
        }
    }

    [SkippableFact]
    public void Only_a_mount_that_nobody_serves_goes()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        Run("umount", "--dead", mountPoint).ShouldSucceed();
        Assert.True(IsMounted(mountPoint));
        Assert.True(File.Exists(raw));
        int daemon = Assert.Single(DaemonsOf(mountPoint));

        // One that hangs lives, and is asked nothing.
        Signal(daemon, "STOP");
        Run("umount", "--dead", mountPoint).ShouldSucceed();
        Assert.True(IsMounted(mountPoint));
        Signal(daemon, "CONT");
        Signal(daemon, "KILL");
        WaitForEnd(daemon);
        Assert.True(IsMounted(mountPoint));
        Run("umount", "--dead", mountPoint).ShouldSucceed();
        Assert.False(IsMounted(mountPoint));
        Run("umount", "--dead", mountPoint).ShouldSucceed();
    }

    /// <summary>The program is a script that says what it was asked.</summary>
    [SkippableTheory]
    [InlineData("qcow2fuse-clean.service", null, "umount --dead\n")]
    [InlineData("qcow2fuse-clean.service", "/srv/my disk", "umount --dead -- /srv/my disk\n")]
    [InlineData("qcow2fuse-clean@.service", "-x", "umount --dead -- -x\n")]
    public void A_unit_cleans_up_where_its_environment_says(string unit, string? directory, string asked)
    {
        QemuTools.RequireTool("bash");
        const string Start = "ExecStart=-/bin/sh -c '";
        string line = Assert.Single(
            SourceTree.LinesOf(unit), static one => one.StartsWith(Start, StringComparison.Ordinal));
        string script = line[Start.Length..line.LastIndexOf('\'')].Replace("$$", "$", StringComparison.Ordinal)
            .Replace("/usr/bin/qcow2fuse", PathOf("qcow2fuse"), StringComparison.Ordinal);
        File.WriteAllText(PathOf("qcow2fuse"), "#!/bin/sh\necho \"$*\"\n");
        Tool("chmod", "+x", PathOf("qcow2fuse"));
        ProcessResult result = ProcessRunner.Run(
            "sh", ["-c", script],
            environment: new Dictionary<string, string?> { ["QCOW2FUSE_DIRECTORY"] = directory }).ShouldSucceed();
        Assert.Equal(asked, result.Output);
    }

    [Theory]
    [InlineData("qcow2fuse.service", "qcow2fuse-clean.service", "qcow2fuse-clean.service")]
    [InlineData("qcow2fuse@.service", "qcow2fuse-clean@.service", "qcow2fuse-clean@%i.service")]
    public void A_unit_has_one_that_cleans_up_behind_it(string unit, string clean, string name)
    {
        string[] lines = SourceTree.LinesOf(unit);
        Assert.Contains("OnSuccess=" + name, lines);
        Assert.Contains("OnFailure=" + name, lines);
        string[] behind = SourceTree.LinesOf(clean);
        Assert.DoesNotContain("RemainAfterExit=yes", behind);

        // It is started at each end of the unit, and must not be given up before that.
        Assert.Contains("StartLimitIntervalSec=0", behind);

        // Both find the same directory.
        Assert.Equal(Settings(lines, "EnvironmentFile="), Settings(behind, "EnvironmentFile="));
        Assert.Equal(Settings(lines, "Environment=QCOW2FUSE_DIRECTORY"), Settings(behind, "Environment="));
    }

    /// <summary>A service is to say that it serves; where it cannot, it has failed.</summary>
    [SkippableTheory]
    [InlineData(true, 32)]
    [InlineData(false, 0)]
    public void A_service_whose_image_is_missing_has_failed_also_with_nofail(bool isService, int exitCode)
    {
        if (isService)
            SetEnvironment("NOTIFY_SOCKET", PathOf("notify"));
        ProcessResult result = Run(
            "mount", "--foreground", "-o", "nofail", PathOf("missing.qcow2"), NewMountPoint());
        Assert.Equal(exitCode, result.ExitCode);
        Assert.Equal(isService, result.Error.Contains("nofail has no effect in a service", StringComparison.Ordinal));
    }

    [SkippableFact]
    public void What_cannot_be_seen_is_not_missing()
    {
        string loop = PathOf("loop.qcow2");
        File.CreateSymbolicLink(loop, loop);
        Assert.NotEqual(0, Run("mount", "-o", "nofail", loop, NewMountPoint()).ExitCode);
    }

    private static IEnumerable<string> Settings(string[] lines, string start) =>
        lines.Where(line => line.StartsWith(start, StringComparison.Ordinal));
}
