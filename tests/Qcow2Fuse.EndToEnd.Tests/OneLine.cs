// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests;

/// <summary>The form of every message: one line that names the program, and at most one hint.</summary>
public static class OneLine
{
    /// <summary>
    /// Asserts that standard error is <c>qcow2fuse: ...</c> and at most one <c>hint: ...</c> line, without a trace of
    /// the program's inside, and that it contains <paramref name="expected"/>.
    /// </summary>
    public static void Error(ProcessResult result, string expected = "")
    {
        string[] lines = result.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.True(lines.Length is 1 or 2, $"standard error is not one line: {result.Error}");
        Assert.StartsWith("qcow2fuse: ", lines[0], StringComparison.Ordinal);
        if (lines.Length == 2)
            Assert.StartsWith("hint: ", lines[1], StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", result.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("Exception", result.Error, StringComparison.Ordinal);
        Assert.DoesNotContain(lines[0], static c => char.IsControl(c));
        Assert.Contains(expected, result.Error, StringComparison.OrdinalIgnoreCase);
    }
}
