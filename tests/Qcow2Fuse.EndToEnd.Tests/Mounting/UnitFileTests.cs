// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using Qcow2Fuse.EndToEnd.Tests.Tidy;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>The units of systemd, as they are installed.</summary>
public sealed partial class UnitFileTests : MountTest
{
    private const string Clean = "qcow2fuse-clean@srv-web.qcow2.service";
    private const string Instance = "qcow2fuse@srv-web.qcow2.service";

    [Theory]
    [InlineData("qcow2fuse.service")]
    [InlineData("qcow2fuse@.service")]
    public void A_unit_hides_no_mount(string unit)
    {
        string[] settings = [.. SourceTree.LinesOf(unit)
            .Where(static line => !line.StartsWith('#') && line.Contains('=', StringComparison.Ordinal))
            .Select(static line => line[..line.IndexOf('=', StringComparison.Ordinal)])];
        Assert.Contains("ExecStart", settings);
        Assert.Contains("WatchdogSec", settings);
        Assert.Contains(SourceTree.LinesOf(unit), static line => MemoryMax().IsMatch(line));
        Assert.DoesNotContain("OOMScoreAdjust=-900", SourceTree.LinesOf(unit));
        Assert.Contains(SourceTree.LinesOf(unit), static line =>
            line.StartsWith("Environment=", StringComparison.Ordinal)
            && line.Contains("QCOW2FUSE_PREFER_DIRECT=on", StringComparison.Ordinal));
        Assert.Contains(SourceTree.LinesOf(unit), static line => line is "MemoryDenyWriteExecute=yes");
        Assert.Empty(settings.Intersect(
            [
                "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectSystem", "ProtectHome", "ReadOnlyPaths",
                "ReadWritePaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "DynamicUser", "ProtectProc",
                "ProcSubset", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectHostname",
                "ProtectControlGroups", "BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "RootDirectory",
                "RootImage", "MountFlags", "MountAPIVFS", "PrivateNetwork", "PrivateUsers",
            ],
            StringComparer.Ordinal));
    }

    /// <summary>
    /// After a crash the mount is there and nobody answers, until the next daemon does. Who looks at it before waits.
    /// </summary>
    [Theory]
    [InlineData("qcow2fuse.service")]
    [InlineData("qcow2fuse@.service")]
    public void Nothing_in_a_unit_touches_the_mount_before_it_is_served(string unit)
    {
        string[] before = ["ExecStartPre", "ExecCondition", "RuntimeDirectory", "WorkingDirectory", "ConditionPathIs"];
        Assert.DoesNotContain(SourceTree.LinesOf(unit), line =>
            before.Any(word => line.StartsWith(word, StringComparison.Ordinal)));
        Assert.Equal(
            unit.Contains('@', StringComparison.Ordinal),
            SourceTree.LinesOf(unit).Contains("Environment=QCOW2FUSE_MKDIR=on"));
    }

    [Theory]
    [InlineData("qcow2fuse.service")]
    [InlineData("qcow2fuse@.service")]
    public void A_daemon_that_hangs_is_back_within_a_minute(string unit)
    {
        int Seconds(string setting) => int.Parse(
            SourceTree.LinesOf(unit).Single(line => line.StartsWith(setting + "=", StringComparison.Ordinal))
                [(setting.Length + 1)..],
            CultureInfo.InvariantCulture);
        Assert.InRange(Seconds("WatchdogSec"), 30, 45);
        Assert.InRange(Seconds("WatchdogSec") + Seconds("TimeoutAbortSec"), 30, 55);
    }

    [Theory]
    [InlineData("qcow2fuse.service")]
    [InlineData("qcow2fuse@.service")]
    public void What_will_not_be_better_the_next_time_is_not_tried_again(string unit) =>
        Assert.Contains("RestartPreventExitStatus=1 32", SourceTree.LinesOf(unit));

    [SkippableFact]
    public void The_helper_of_mount_is_installed_where_mount_looks_for_it()
    {
        QemuTools.RequireTool("make");
        QemuTools.Require(FindProgram() is not null, "out/qcow2fuse is not built");
        string root = PathOf("root");
        string[] words = ["-s", "-C", SourceTree.Root, "-o", "out/qcow2fuse", "DESTDIR=" + root];
        Tool("make", [.. words, "install"]);
        Assert.Equal("/usr/local/bin/qcow2fuse", new FileInfo(root + "/sbin/mount.qcow2fuse").LinkTarget);
        Assert.True(File.Exists(root + "/usr/local/bin/qcow2fuse"));
        Tool("make", [.. words, "uninstall"]);
        Assert.Null(new FileInfo(root + "/sbin/mount.qcow2fuse").LinkTarget);
        Assert.False(File.Exists(root + "/usr/local/bin/qcow2fuse"));
    }

    [SkippableFact]
    public void What_is_installed_passes_the_manager_s_own_checks()
    {
        QemuTools.RequireTool("systemd-analyze");
        QemuTools.Require(FindProgram() is not null, "out/qcow2fuse is not built");
        string root = PathOf("root");

        // "-o": as it is built, whatever is newer.
        Tool(
            "make", "-s", "-C", SourceTree.Root, "-o", "out/qcow2fuse", "install", "DESTDIR=" + root, "PREFIX=/usr");

        // What every unit needs of the system it is installed on.
        string units = Path.Combine(root, "usr/lib/systemd/system");
        foreach (string target in (string[])["sysinit", "basic", "local-fs", "shutdown", "multi-user"])
            File.Copy($"/lib/systemd/system/{target}.target", $"{units}/{target}.target");
        foreach (string unit in (string[])["qcow2fuse.service", Instance, "qcow2fuse-clean.service", Clean])
        {
            ProcessResult verified = TryTool("systemd-analyze", "verify", "--man=no", "--root=" + root, unit);
            Assert.Equal((0, "", ""), (verified.ExitCode, verified.Output, verified.Error));
            Tool(
                "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=45", "--root=" + root,
                unit);
        }

        string broken = Path.Combine(units, "qcow2fuse.service");
        File.WriteAllText(broken, File.ReadAllText(broken).Replace("Type=notify", "Type=no", StringComparison.Ordinal));
        Assert.NotEqual(
            "", TryTool("systemd-analyze", "verify", "--man=no", "--root=" + root, "qcow2fuse.service").Error);
    }

    [SkippableFact]
    public void The_filter_of_system_calls_lets_through_what_a_mount_needs()
    {
        QemuTools.RequireTool("systemd-analyze");
        QemuTools.RequireTool("strace");
        string mountPoint = NewMountPoint();
        string image = NewImage();
        string filter = Assert.Single(SourceTree.LinesOf("qcow2fuse.service"), static line =>
            line.StartsWith("SystemCallFilter=", StringComparison.Ordinal));
        HashSet<string> allowed = new(StringComparer.Ordinal);
        foreach (string set in filter["SystemCallFilter=".Length..].Split(' '))
            Expand(set, allowed);

        string raw = RawFileOf(image, mountPoint);
        using (Process traced = Process.Start(
            "strace", ["-f", "-qq", "-o", PathOf("trace"), FindProgram()!, "mount", "--foreground", image, mountPoint]))
        {
            WaitUntil(() => traced.HasExited || File.Exists(raw), $"{raw} does not appear");
            Tool("mkfs.ext4", "-q", "-F", raw);
            Signal(Assert.Single(DaemonsOf(mountPoint)), "TERM");
            Assert.True(traced.WaitForExit(Eventually.Patience), "the daemon does not end");
        }

        HashSet<string> used = [.. File.ReadLines(PathOf("trace"))
            .Select(static line => line[(line.IndexOf(' ', StringComparison.Ordinal) + 1)..].TrimStart())
            .Where(static line => char.IsAsciiLetter(line[0]) && line.Contains('(', StringComparison.Ordinal))
            .Select(static line => line[..line.IndexOf('(', StringComparison.Ordinal)])];
        Assert.Contains("mount", used);
        Assert.Contains("umount2", used);
        Assert.Contains("fallocate", used);
        Assert.Empty(used.Except(allowed, StringComparer.Ordinal));
    }

    /// <summary>"infinity" is no bound.</summary>
    [GeneratedRegex("^MemoryMax=[1-9][0-9]{0,3}[MG]$")]
    private static partial Regex MemoryMax();

    /// <summary>The calls of a set, which may name other sets.</summary>
    private static void Expand(string set, HashSet<string> calls)
    {
        foreach (string line in Tool("systemd-analyze", "syscall-filter", set).Split('\n'))
        {
            string word = line.Trim();
            if (word.Length == 0 || word.StartsWith('#') || word == set)
                continue;
            if (word[0] != '@')
                calls.Add(word);
            else if (calls.Add(word))
                Expand(word, calls);
        }
    }
}
