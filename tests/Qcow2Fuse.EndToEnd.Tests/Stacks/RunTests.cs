// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Stacks;

/// <summary><c>qcow2fuse run</c>: a command beside a mount that lives as long as the command.</summary>
public sealed class RunTests : StackTest
{
    private static readonly TimeSpan EndTimeout = Eventually.Patience;

    [SkippableFact]
    public void The_command_writes_the_disk_and_its_exit_code_is_passed_on()
    {
        RequireMounting();
        string image = NewImage();
        ProcessResult result = Run(
            "run", image, "--", "sh", "-c",
            "echo \"$QCOW2FUSE_DISK\"; printf hello | dd of=\"$QCOW2FUSE_DISK\" conv=notrunc status=none; exit 7");
        Assert.Equal((7, ""), (result.ExitCode, result.Error));
        string disk = result.Output.Trim();
        Assert.Equal("disk.raw", Path.GetFileName(disk));
        ShouldBeGone(image, Path.GetDirectoryName(disk)!);
        QemuTools.ShouldPassCheck(image);
        Assert.Equal("hello"u8.ToArray(), QemuTools.ConvertToRaw(image)[..5]);
    }

    [SkippableFact]
    public void Nobody_else_may_enter_the_mount()
    {
        RequireMounting();
        ProcessResult result = Run(
            "run", NewImage(), "--", "sh", "-c", "stat -c '%a %U' \"$(dirname \"$(dirname \"$QCOW2FUSE_DISK\")\")\"");
        Assert.Equal("700 root\n", result.ShouldSucceed().Output);
    }

    [SkippableTheory]
    [InlineData(127, "no-such-program", "No such file or directory")]
    [InlineData(126, "/etc/passwd", "Permission denied")]
    public void A_command_that_cannot_be_run_leaves_nothing(int exitCode, string command, string reason)
    {
        RequireMounting();
        string image = NewImage();
        ProcessResult result = Run("run", image, "--", command);
        Assert.Equal(exitCode, result.ExitCode);
        OneLine.Error(result, reason);
        Assert.Empty(MountPointsOf(image));
    }

    [SkippableFact]
    public void An_image_that_cannot_be_mounted_is_not_the_commands_failure()
    {
        RequireMounting();
        ProcessResult result = Run("run", PathOf("missing.qcow2"), "--", "touch", PathOf("ran"));
        Assert.Equal(125, result.ExitCode);
        OneLine.Error(result, "missing.qcow2");
        Assert.False(File.Exists(PathOf("ran")));
    }

    [SkippableFact]
    public void Options_are_those_of_a_mount()
    {
        RequireMounting();
        string image = NewImage();
        ProcessResult result = Run("run", "-r", image, "--", "sh", "-c", "dd if=/dev/zero of=$QCOW2FUSE_DISK count=1");
        Assert.Equal(1, result.ExitCode);
        Assert.Contains("Read-only", result.Error, StringComparison.Ordinal);

        result = Run("run", "-o", "nonsense", image, "--", "true");
        Assert.Equal(125, result.ExitCode);
        OneLine.Error(result, "unknown option nonsense");
        Assert.Equal(125, Run("run").ExitCode);
        Assert.Equal(125, Run("run", "--nonsense", image, "--", "true").ExitCode);
    }

    [SkippableFact]
    public void The_command_gets_options_that_look_like_ours()
    {
        RequireMounting();
        ProcessResult result = Run("run", NewImage(), "--", "echo", "-r", "--", "-o", "x", "--help");
        Assert.Equal("-r -- -o x --help\n", result.ShouldSucceed().Output);
    }

    [SkippableTheory]
    [InlineData("TERM", 3)]
    [InlineData("HUP", 4)]
    public void A_signal_goes_to_the_command(string signal, int exitCode)
    {
        string image = NewImage();
        using Process run = Start(
            image, "trap 'exit 3' TERM; trap 'exit 4' HUP; echo $QCOW2FUSE_DISK > disk; while :; do sleep 0.05; done");
        string directory = Path.GetDirectoryName(ReadLine("disk"))!;
        Signal(run.Id, signal);
        Assert.True(run.WaitForExit(EndTimeout), "run does not end");
        Assert.Equal(exitCode, run.ExitCode);
        ShouldBeGone(image, directory);
    }

    [SkippableFact]
    public void A_command_killed_by_a_signal_is_told_as_shells_tell_it()
    {
        RequireMounting();
        string image = NewImage();
        Assert.Equal(137, Run("run", image, "--", "sh", "-c", "kill -KILL $$").ExitCode);
        Assert.Empty(MountPointsOf(image));
    }

    [SkippableFact]
    public void Killed_it_still_leaves_no_mount()
    {
        string image = NewImage();
        using Process run = Start(image, "echo $$ > pid; echo $QCOW2FUSE_DISK > disk; exec sleep 300");
        string directory = Path.GetDirectoryName(ReadLine("disk"))!;
        Signal(run.Id, "KILL");
        try
        {
            Assert.True(run.WaitForExit(EndTimeout), "run does not end");
            WaitUntil(() => !Directory.Exists(directory), $"{directory} is left");

            // Nobody is left to wait for the daemon, which has no more to do than to end.
            WaitUntil(() => DaemonsOf(directory).Count == 0, "the daemon does not end");
            ShouldBeGone(image, directory);
        }
        finally
        {
            Signal(int.Parse(ReadLine("pid"), CultureInfo.InvariantCulture), "KILL");
        }
    }

    [SkippableFact]
    public void A_process_left_behind_keeps_the_image_but_not_the_mount()
    {
        RequireMounting();
        string image = NewImage();
        ProcessResult result = Run(
            "run", image, "--", "sh", "-c",
            "echo $QCOW2FUSE_DISK; (exec 9<$QCOW2FUSE_DISK; touch open; exec sleep 300) >/dev/null 2>&1 & echo $!; "
            + "until [ -e open ]; do sleep 0.05; done");
        string[] lines = result.ShouldSucceed().Output.Split('\n');
        string directory = Path.GetDirectoryName(lines[0])!;
        try
        {
            OneLine.Error(result, "still open");
            Assert.Empty(MountPointsOf(image));
            Assert.Single(DaemonsOf(directory));

            // The daemon hears of the end of the command more than once.
            Eventually.Sleeps(Assert.Single(DaemonsOf(directory)));
            Assert.Single(DaemonsOf(directory));
        }
        finally
        {
            Signal(int.Parse(lines[1], CultureInfo.InvariantCulture), "KILL");
        }

        WaitUntil(() => DaemonsOf(directory).Count == 0, "the daemon does not end");
        ShouldBeGone(image, directory);
    }

    private Process Start(string image, string script)
    {
        RequireMounting();
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");

        // A test runner in the background has SIGINT and SIGHUP ignored, which its children would inherit.
        string[] arguments = ["--default-signal=INT,HUP,TERM", program!, "run", image, "--", "sh", "-c", script];
        ProcessStartInfo start = new("env", arguments)
        { WorkingDirectory = WorkDirectory };
        return Process.Start(start)!;
    }

    /// <summary>What the command wrote into a file, which may take a moment.</summary>
    private string ReadLine(string file)
    {
        WaitUntil(() => File.Exists(PathOf(file)) && File.ReadAllText(PathOf(file)).EndsWith('\n'), $"no {file}");
        return File.ReadAllText(PathOf(file)).Trim();
    }
}
