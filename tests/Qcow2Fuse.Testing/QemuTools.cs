// SPDX-License-Identifier: MIT
using Xunit;

namespace Qcow2Fuse.Testing;

/// <summary>qemu-img and qemu-io, the other implementation tests compare with.</summary>
public static class QemuTools
{
    /// <summary>Whether a missing tool is a failure instead of a skip: QCOW2FUSE_REQUIRE_ALL=1, set in CI.</summary>
    public static bool RequireAll => Environment.GetEnvironmentVariable("QCOW2FUSE_REQUIRE_ALL") == "1";

    /// <summary>Whether qemu-img is installed.</summary>
    public static bool HasQemuImg { get; } = ProcessRunner.Find("qemu-img") is not null;

    /// <summary>
    /// Skips the calling test (a <c>[SkippableFact]</c> or <c>[SkippableTheory]</c>) if a program is not installed;
    /// fails it where <see cref="RequireAll"/>.
    /// </summary>
    public static void RequireTool(string program) =>
        Require(ProcessRunner.Find(program) is not null, $"{program} is not installed");

    /// <summary>
    /// Skips the calling test for <paramref name="reason"/> unless a condition holds; fails it in CI.
    /// </summary>
    public static void Require(bool condition, string reason)
    {
        if (condition)
            return;
        Assert.False(RequireAll, reason);
        Skip.If(true, reason);
    }

    /// <summary>Runs qemu-img, which must succeed, and returns its standard output.</summary>
    public static string Img(params string[] arguments) =>
        ProcessRunner.Run("qemu-img", arguments).ShouldSucceed().Output;

    /// <summary>Runs qemu-img whatever comes of it.</summary>
    public static ProcessResult TryImg(params string[] arguments) => ProcessRunner.Run("qemu-img", arguments);

    /// <summary>Runs qemu-io commands (<c>write -P 7 0 64k</c>) on an image; all must succeed.</summary>
    public static string Io(string image, params string[] commands)
    {
        ProcessResult result = ProcessRunner.Run(
            "qemu-io", [.. commands.SelectMany(command => new[] { "-c", command }), "-f", "qcow2", image]);
        result.ShouldSucceed();
        if (result.Output.Contains("failed", StringComparison.OrdinalIgnoreCase))
            throw new InvalidOperationException($"qemu-io {image}: {result.Output}");
        return result.Output;
    }

    /// <summary>Asserts that <c>qemu-img check</c> finds no errors; leaks only where they are allowed.</summary>
    public static void ShouldPassCheck(string image, bool allowLeaks = false)
    {
        ProcessResult result = TryImg("check", "-f", "qcow2", image);
        Assert.True(
            result.ExitCode == 0 || (allowLeaks && result.ExitCode == 3),
            $"qemu-img check: exit code {result.ExitCode}\n{result.Output}{result.Error}");
    }

    /// <summary>The guest's bytes as <c>qemu-img convert -O raw</c> sees them.</summary>
    public static byte[] ConvertToRaw(string image)
    {
        using TempDirectory directory = new();
        string raw = directory.File("converted.raw");
        Img("convert", "-f", "qcow2", "-O", "raw", image, raw);
        return File.ReadAllBytes(raw);
    }
}
