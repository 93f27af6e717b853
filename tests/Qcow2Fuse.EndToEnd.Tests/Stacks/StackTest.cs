// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text.Json;
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Stacks;

/// <summary>
/// A test of commands that mount an image by themselves. What a failed test leaves is taken away: loop devices on files
/// of its images' mounts, those mounts, and their daemons.
/// </summary>
public abstract class StackTest : MountTest
{
    private const string PrivateBase = "/run/qcow2fuse";

    /// <summary>Skips the test where there are no loop devices; fails it in CI.</summary>
    protected static void RequireLoopDevices()
    {
        RequireMounting();
        QemuTools.Require(File.Exists("/dev/loop-control"), "there are no loop devices");
        QemuTools.RequireTool("losetup");
    }

    /// <summary>The mount points of an image, from the kernel's list.</summary>
    protected static IReadOnlyList<string> MountPointsOf(string image) =>
    [
        .. File.ReadLines("/proc/self/mountinfo")
            .Where(line => line.Contains($" - fuse.qcow2fuse {image} ", StringComparison.Ordinal))
            .Select(static line => line.Split(' ')[4]),
    ];

    /// <summary>The loop devices whose file lies in a directory.</summary>
    protected static IReadOnlyList<string> LoopsIn(string directory) =>
    [
        .. Directory.EnumerateDirectories("/sys/block", "loop*")
            .Where(block => ReadOrEmpty(block + "/loop/backing_file")
                .StartsWith(directory + "/", StringComparison.Ordinal))
            .Select(static block => "/dev/" + Path.GetFileName(block)),
    ];

    /// <summary>Asserts that neither mount, daemon, loop device nor mount point of an image is left.</summary>
    protected static void ShouldBeGone(string image, string mountPoint)
    {
        Assert.Empty(MountPointsOf(image));
        Assert.Empty(LoopsIn(mountPoint));
        Assert.Empty(DaemonsOf(mountPoint));
        Assert.False(Directory.Exists(mountPoint), $"{mountPoint} is left");
    }

    /// <summary>The entry of an image in <c>list --output=json</c>.</summary>
    protected JsonElement Listed(string image) => Assert.Single(
        JsonDocument.Parse(Run("list", "--output=json").ShouldSucceed().Output)
            .RootElement.GetProperty("mounts").EnumerateArray(),
        entry => entry.GetProperty("image").GetString() == image);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        foreach (string image in Directory.EnumerateFiles(WorkDirectory, "*.qcow2"))
        {
            foreach (string mountPoint in MountPointsOf(image))
                TakeAway(mountPoint);
        }

        base.Dispose(disposing);
    }

    private static void TakeAway(string mountPoint)
    {
        foreach (string loop in LoopsIn(mountPoint))
        {
            _ = ProcessRunner.Run("umount", ["-A", "-l", loop]);
            _ = ProcessRunner.Run("losetup", ["-d", loop]);
        }

        foreach (int daemon in DaemonsOf(mountPoint))
            _ = ProcessRunner.Run("/bin/kill", ["-KILL", daemon.ToString(CultureInfo.InvariantCulture)]);
        _ = ProcessRunner.Run("umount", ["-l", mountPoint]);
        if (mountPoint.StartsWith(PrivateBase, StringComparison.Ordinal) && Directory.Exists(mountPoint))
            Directory.Delete(mountPoint);
    }

    private static string ReadOrEmpty(string file)
    {
        try
        {
            return File.ReadAllText(file);
        }
        catch (IOException)
        {
            // Only a device in use has the attribute.
            return "";
        }
    }
}
