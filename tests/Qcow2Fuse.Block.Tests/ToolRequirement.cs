// SPDX-License-Identifier: MIT
using Xunit;

namespace Qcow2Fuse.Block.Tests;

/// <summary>What a test needs to be installed.</summary>
internal static class ToolRequirement
{
    /// <summary>
    /// Skips the calling test if a program is not on PATH; fails it where QCOW2FUSE_REQUIRE_ALL is 1, as in CI.
    /// </summary>
    public static void Require(string program)
    {
        bool found = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':')
            .Any(directory => File.Exists(Path.Combine(directory, program)));
        if (found)
            return;
        Assert.NotEqual("1", Environment.GetEnvironmentVariable("QCOW2FUSE_REQUIRE_ALL"));
        Skip.If(true, $"{program} is not installed");
    }
}
