// SPDX-License-Identifier: MIT
using Qcow2Fuse.EndToEnd.Tests.Tidy;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>What cleans up behind a service takes a dead mount away, and no other.</summary>
public sealed class DeadMountTests : MountTest
{
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

    /// <summary>
    /// systemctl is a script that tells the state and the job of the other unit; the program says what it was asked.
    /// </summary>
    [SkippableTheory]
    [InlineData("qcow2fuse-clean.service", "failed", "", null, "umount --dead\n")]
    [InlineData("qcow2fuse-clean.service", "inactive", "", "/srv/my disk", "umount --dead -- /srv/my disk\n")]
    [InlineData("qcow2fuse-clean@.service", "inactive", "0", "-x", "umount --dead -- -x\n")]
    [InlineData("qcow2fuse-clean@.service", "inactive", "17", "/srv/x", "")]
    [InlineData("qcow2fuse-clean@.service", "activating", "", "/srv/x", "")]
    [InlineData("qcow2fuse-clean@.service", "", "", "/srv/x", "")]
    public void A_unit_cleans_up_where_its_environment_says_and_nobody_starts_again(
        string unit, string state, string job, string? directory, string asked)
    {
        QemuTools.RequireTool("bash");
        const string Start = "ExecStop=-/bin/sh -c '";
        string main = unit.Replace("-clean", "", StringComparison.Ordinal)
            .Replace("@", "@%i", StringComparison.Ordinal);
        string line = string.Join('\n', SourceTree.LinesOf(unit)).Replace("\\\n", " ", StringComparison.Ordinal)
            .Split('\n').Single(static one => one.StartsWith(Start, StringComparison.Ordinal));
        int end = line.LastIndexOf('\'');
        Assert.Equal(["sh", main], line[(end + 1)..].Split(' ', StringSplitOptions.RemoveEmptyEntries));
        string script = line[Start.Length..end].Replace("$$", "$", StringComparison.Ordinal)
            .Replace("/usr/bin/qcow2fuse", PathOf("qcow2fuse"), StringComparison.Ordinal);
        File.WriteAllText(PathOf("qcow2fuse"), "#!/bin/sh\necho \"$*\"\n");
        File.WriteAllText(
            PathOf("systemctl"),
            "#!/bin/sh\n[ \"$1 $2 $4\" = 'show -P other.service' ] || exit 1\n"
                + $"if [ \"$3\" = Job ]; then echo '{job}'; else echo '{state}'; fi\n");
        Tool("chmod", "+x", PathOf("qcow2fuse"), PathOf("systemctl"));
        ProcessResult result = ProcessRunner.Run(
            "sh", ["-c", script, "sh", "other.service"],
            environment: new Dictionary<string, string?>
            {
                ["QCOW2FUSE_DIRECTORY"] = directory,
                ["PATH"] = WorkDirectory + ":/usr/bin:/bin",
            }).ShouldSucceed();
        Assert.Equal(asked, result.Output);
    }

    [Theory]
    [InlineData("qcow2fuse.service", "qcow2fuse-clean.service", "qcow2fuse-clean.service")]
    [InlineData("qcow2fuse@.service", "qcow2fuse-clean@.service", "qcow2fuse-clean@%i.service")]
    public void A_unit_has_one_that_cleans_up_behind_it(string unit, string clean, string name)
    {
        string[] lines = SourceTree.LinesOf(unit);
        Assert.Contains("Wants=" + name, lines);
        Assert.Contains("After=local-fs.target " + name, lines);
        string[] behind = SourceTree.LinesOf(clean);
        Assert.Contains("BindsTo=" + name.Replace("-clean", "", StringComparison.Ordinal), behind);
        Assert.Contains("RemainAfterExit=yes", behind);

        // The one beside it is started with each start of the unit, and must not be given up before that.
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
