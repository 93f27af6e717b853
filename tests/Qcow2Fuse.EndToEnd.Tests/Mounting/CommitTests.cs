// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>What was written and never flushed, after the daemon was killed.</summary>
public sealed class CommitTests : MountTest
{
    private const int Length = 3 << 20;

    [SkippableTheory]
    [InlineData("commit=1")]
    [InlineData("commit=1,compress")]
    [InlineData("commit=1,cache=none")]
    public void A_daemon_that_is_killed_loses_no_more_than_the_last_seconds(string options)
    {
        QemuTools.RequireTool("qemu-io");
        string mountPoint = NewMountPoint();
        string image = NewImage();
        string raw = Mount(image, mountPoint, "-o", options);
        using (FileStream file = new(raw, FileMode.Open, FileAccess.Write, FileShare.ReadWrite, bufferSize: 0))
        {
            byte[] bytes = new byte[Length];
            bytes.AsSpan().Fill(7);
            file.Position = 1 << 20;
            file.Write(bytes);
        }

        Eventually.Holds(() => IsInTheFile(image), "what was written does not reach the image by itself");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Signal(daemon, "KILL");
        WaitForEnd(daemon);
        Tool("umount", "-l", mountPoint);
        QemuTools.ShouldPassCheck(image, allowLeaks: true);
        Assert.True(IsInTheFile(image));
    }

    private static bool IsInTheFile(string image)
    {
        ProcessResult read = ProcessRunner.Run(
            "qemu-io", ["-r", "-U", "-f", "qcow2", "-c", $"read -P 7 1M {Length}", image]);
        return read.ExitCode == 0 && !read.Output.Contains("failed", StringComparison.OrdinalIgnoreCase);
    }
}
