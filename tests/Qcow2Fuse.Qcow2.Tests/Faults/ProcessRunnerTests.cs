// SPDX-License-Identifier: MIT
using System.Diagnostics;
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
        Stopwatch watch = Stopwatch.StartNew();
        Assert.Throws<TimeoutException>(
            () => ProcessRunner.Run("sleep", ["60"], timeout: TimeSpan.FromMilliseconds(200)));
        Assert.True(watch.Elapsed < TimeSpan.FromSeconds(20));
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
}
