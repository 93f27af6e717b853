// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Faults;

/// <summary>Programs are run to their end, or not past their time.</summary>
public sealed class ProcessRunnerTests
{
    [Fact]
    public void Output_error_and_exit_code_are_kept_apart()
    {
        ProcessResult result = ProcessRunner.Run(
            "sh", ["-c", "echo $WORD; echo wrong >&2; exit 3"],
            environment: new Dictionary<string, string?> { ["WORD"] = "right" });
        Assert.Equal(new ProcessResult(3, "right\n", "wrong\n"), result);
        Assert.Throws<InvalidOperationException>(() => result.ShouldSucceed());
    }

    [Fact]
    public void A_program_that_does_not_end_is_killed()
    {
        // The argument finds it among all processes.
        string length = $"3600.{Environment.ProcessId}";
        Assert.Throws<TimeoutException>(
            () => ProcessRunner.Run("sleep", [length], timeout: TimeSpan.FromMilliseconds(200)));
        Eventually.Holds(() => !Directory.EnumerateDirectories("/proc").Any(process => CommandLineOf(process)
            .Contains(length, StringComparison.Ordinal)), "it lives");
    }

    [Fact]
    public void A_temporary_directory_is_gone_afterwards()
    {
        string path;
        using (TempDirectory directory = new())
        {
            path = directory.Path;
            File.WriteAllText(directory.File("a"), "b");
        }

        Assert.False(Directory.Exists(path));
    }

    private static string CommandLineOf(string process)
    {
        try
        {
            return File.ReadAllText(Path.Combine(process, "cmdline"));
        }
        catch (IOException)
        {
            // Not a process, or one that has ended.
            return "";
        }
    }
}
