// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.EndToEnd.Tests.Tidy;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Restart;

/// <summary>What the units say of restarts.</summary>
public sealed class RestartUnitTests : CommandTest
{
    private const string Name = @"qcow2fuse@srv-my\x2ddisk.service";

    [Theory]
    [InlineData("qcow2fuse.service")]
    [InlineData("qcow2fuse@.service")]
    public void A_unit_keeps_descriptors_and_starts_again(string unit)
    {
        string[] lines = [.. SourceTree.LinesOf(unit)];
        Assert.Contains("FileDescriptorStoreMax=512", lines);
        Assert.Contains($"RestartForceExitStatus={FakeManager.HandedOver}", lines);
        Assert.Contains($"SuccessExitStatus={FakeManager.HandedOver}", lines);
        Assert.Contains("Restart=on-failure", lines);
        Assert.Contains(lines, static line => line.EndsWith(" QCOW2FUSE_RESTARTABLE=on", StringComparison.Ordinal));
    }

    /// <summary>systemctl is a script that lists a job of this kind, among others.</summary>
    [SkippableTheory]
    [InlineData("qcow2fuse.service", "restart", true)]
    [InlineData("qcow2fuse@.service", "restart", true)]
    [InlineData("qcow2fuse@.service", "stop", false)]
    [InlineData("qcow2fuse@.service", "", false)]
    public void Only_a_restart_asks_to_hand_over(string unit, string job, bool isAsked)
    {
        QemuTools.RequireTool("bash");
        string own = job.Length > 0 ? $"17 {Name}   {job}   running\n" : "";
        string tools = PathOf("bin");
        Directory.CreateDirectory(tools);
        File.WriteAllText(
            PathOf("jobs"), $"3 other@srv-my-disk.service restart waiting\n{own}9 x.service stop running\n");
        File.WriteAllText(Path.Combine(tools, "systemctl"), $"#!/bin/sh\ncat {PathOf("jobs")}\n");
        ProcessRunner.Run("chmod", ["+x", Path.Combine(tools, "systemctl")]).ShouldSucceed();
        using Process daemon = Process.Start(
            "bash", ["-c", $"trap 'touch {PathOf("asked")}; exit 75' USR2; trap 'exit 3' TERM; "
                + $"touch {PathOf("ready")}; while :; do sleep 0.1; done"]);
        Eventually.Holds(() => File.Exists(PathOf("ready")));

        Dictionary<string, string?> path = new() { ["PATH"] = $"{tools}:/usr/bin:/bin" };
        ProcessRunner.Run(
            "sh", ["-c", ScriptOf(unit), "sh", Name, daemon.Id.ToString(CultureInfo.InvariantCulture)],
            environment: path).ShouldSucceed();

        // What the unit sent comes first: bash runs the trap of the lower number before.
        ProcessRunner.Run("kill", [daemon.Id.ToString(CultureInfo.InvariantCulture)]);
        Assert.True(daemon.WaitForExit(Eventually.Patience), "it does not end");
        Assert.Equal(isAsked ? 75 : 3, daemon.ExitCode);
        Assert.Equal(isAsked, File.Exists(PathOf("asked")));
    }

    /// <summary>The script of ExecStop=, as the manager hands it to the shell.</summary>
    private static string ScriptOf(string unit)
    {
        string text = string.Join('\n', SourceTree.LinesOf(unit)).Replace("\\\n", " ", StringComparison.Ordinal);
        string line = text.Split('\n').Single(static one => one.StartsWith("ExecStop=", StringComparison.Ordinal));
        const string Start = "ExecStop=-/bin/sh -c '";
        const string End = "' sh %n $MAINPID";
        Assert.StartsWith(Start, line);
        Assert.EndsWith(End, line);
        return line[Start.Length..^End.Length].Replace("$$", "$", StringComparison.Ordinal);
    }
}
