// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Block.Tests.Processes;

/// <summary>What a started program gets of this process, and what becomes of it.</summary>
public sealed class ProgramStartTests
{
    private const int OutputBytesMax = 65536;

    [Fact]
    public void A_program_gets_no_descriptor_that_it_was_not_given()
    {
        int kept = LinuxFile.Open("/etc/hostname", OpenFlags.ReadOnly);
        int given = LinuxFile.Open("/etc/passwd", OpenFlags.ReadOnly | OpenFlags.CloseOnExec);
        try
        {
            Assert.True(LinuxStream.IsInherited(kept));
            string[] files = Output(Shell("for f in /proc/self/fd/*; do readlink $f; done; true", given)).Split('\n');
            Assert.DoesNotContain("/etc/hostname", files);
            Assert.Contains("/etc/passwd", files);
            Assert.Equal(2, files.Count(static file => file == "/dev/null"));
        }
        finally
        {
            _ = LinuxFile.Close(kept);
            _ = LinuxFile.Close(given);
        }
    }

    [Fact]
    public void A_program_that_is_to_inherit_all_does()
    {
        int kept = LinuxFile.Open("/etc/hostname", OpenFlags.ReadOnly);
        try
        {
            ProgramStart start = new()
            {
                Path = "/bin/sh",
                Arguments = ["-c", $"readlink /proc/self/fd/{kept}"],
                Output = ProgramStream.Pipe,
                InheritsAll = true,
            };
            Assert.Equal("/etc/hostname", Output(start).Trim());
        }
        finally
        {
            _ = LinuxFile.Close(kept);
        }
    }

    [Fact]
    public void Variables_are_changed_added_and_taken_away()
    {
        ProgramStart start = new()
        {
            Path = "/usr/bin/env",
            Variables = [("QCOW2FUSE_TEST", "a b=c"), ("PATH", null)],
            Output = ProgramStream.Pipe,
        };
        string[] lines = Output(start).Split('\n');
        Assert.Contains("QCOW2FUSE_TEST=a b=c", lines);
        Assert.DoesNotContain(lines, static line => line.StartsWith("PATH=", StringComparison.Ordinal));
        Assert.True(lines.Length > 2, "nothing else was passed on");
    }

    [Fact]
    public void An_environment_of_its_own_has_nothing_else()
    {
        ProgramStart start = new()
        {
            Path = "/usr/bin/env",
            Variables = [("ONE", "1")],
            HasOwnEnvironment = true,
            Output = ProgramStream.Pipe,
        };
        Assert.Equal("ONE=1\n", Output(start));
    }

    [Theory]
    [InlineData("exit 7", 7)]
    [InlineData("kill -9 $$", 137)]
    public void The_end_of_a_program_is_told(string script, int expected)
    {
        Assert.Equal(0, StartedProgram.TryStart(Shell(script), out StartedProgram? started));
        using StartedProgram program = started!;
        Assert.True(program.WaitUntilOver(TimeSpan.FromMinutes(1)));
        Assert.False(program.HasBeenWaitedFor);
        Assert.Equal(expected, program.Wait());
        Assert.Equal(expected, program.Wait());
    }

    [Fact]
    public void A_program_that_does_not_end_is_waited_for_so_long_and_no_longer()
    {
        ProgramStart start = new() { Path = "/bin/cat", Input = ProgramStream.Pipe };
        Assert.Equal(0, StartedProgram.TryStart(start, out StartedProgram? started));
        using StartedProgram program = started!;
        Assert.False(program.WaitUntilOver(TimeSpan.Zero));
        program.EndInput();
        Assert.Equal(0, program.Wait());
    }

    [Fact]
    public void Bytes_reach_its_standard_input()
    {
        ProgramStart start = new() { Path = "/bin/cat", Input = ProgramStream.Pipe, Output = ProgramStream.Pipe };
        Assert.Equal(0, StartedProgram.TryStart(start, out StartedProgram? started));
        using StartedProgram program = started!;
        Assert.Equal(0, program.WriteInput("hello"u8));
        program.EndInput();
        Assert.Equal("hello", program.ReadOutput(OutputBytesMax));
        Assert.Equal(0, program.Wait());
    }

    /// <summary>The class library learns of the ends of its processes by a handler of SIGCHLD.</summary>
    [Fact]
    public void Processes_of_the_class_library_are_still_waited_for()
    {
        using Process other = Process.Start("/bin/sh", ["-c", "read line; exit 3"]);
        Assert.Equal(0, StartedProgram.TryStart(Shell("exit 0"), out StartedProgram? program));
        using (program)
            Assert.Equal(0, program!.Wait());
        using Process later = Process.Start(new ProcessStartInfo("/bin/sh", ["-c", "read line; exit 4"])
        { RedirectStandardInput = true })!;
        later.StandardInput.Close();
        Assert.True(later.WaitForExit(Eventually.Patience), "the end of a process was not seen");
        Assert.Equal(4, later.ExitCode);
        other.Kill();
        other.WaitForExit();
    }

    [Theory]
    [InlineData("/nonexistent/program", 2)]
    [InlineData("/etc/passwd", 13)]
    public void What_cannot_be_executed_is_an_error(string path, int errno) =>
        Assert.Equal(-errno, StartedProgram.TryStart(new ProgramStart { Path = path }, out _));

    /// <summary>A name alone is no file of the current directory, and no program of PATH unless that is asked for.
    /// </summary>
    [Fact]
    public void A_name_without_a_slash_is_looked_for_in_PATH_only_where_it_is_to_be()
    {
        Assert.Equal(-Errno.ENOENT, StartedProgram.TryStart(new ProgramStart { Path = "env" }, out _));
        ProgramStart start = new() { Path = "env", SearchesPath = true };
        Assert.Equal(0, StartedProgram.TryStart(start, out StartedProgram? program));
        using (program)
            Assert.Equal(0, program!.Wait());
    }

    [Fact]
    public void Programs_of_the_system_have_absolute_paths()
    {
        Assert.StartsWith("/", SystemPrograms.Find("mount"), StringComparison.Ordinal);
        Assert.Null(SystemPrograms.Find("no-such-program-at-all"));
    }

    private static ProgramStart Shell(string script, params int[] descriptors) => new()
    {
        Path = "/bin/sh",
        Arguments = ["-c", script],
        Output = ProgramStream.Pipe,
        Descriptors = descriptors,
    };

    private static string Output(ProgramStart start)
    {
        Assert.Equal(0, StartedProgram.TryStart(start, out StartedProgram? started));
        using StartedProgram program = started!;
        string output = program.ReadOutput(OutputBytesMax);
        Assert.Equal(0, program.Wait());
        return output;
    }
}
