// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>Images that a program with lazy refcounts left behind when it died.</summary>
public sealed class DirtyImageTests : MountTest
{
    [SkippableFact]
    public void A_dirty_image_is_repaired_when_it_is_mounted_and_the_mount_says_so()
    {
        string mountPoint = NewMountPoint();
        string image = NewDirtyImage();
        byte[] disk = QemuTools.ConvertToRaw(image);

        ProcessResult result = Run("mount", image, mountPoint).ShouldSucceed();

        Assert.Contains("refcounts were repaired", result.Error, StringComparison.Ordinal);
        Assert.Single(result.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries));
        string raw = RawFileOf(image, mountPoint);
        Tool("cmp", "-n", "2097152", raw, image + ".raw");
        Tool("dd", "if=/dev/urandom", "of=" + raw, "bs=1M", "count=3", "seek=32", "conv=notrunc", "status=none");
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
        Assert.Equal(disk[..(2 << 20)], QemuTools.ConvertToRaw(image)[..(2 << 20)]);
    }

    [SkippableFact]
    public void A_dirty_image_that_is_mounted_read_only_is_not_changed()
    {
        string mountPoint = NewMountPoint();
        string image = NewDirtyImage();
        byte[] before = File.ReadAllBytes(image);
        string raw = Mount(image, mountPoint, "-r");
        Tool("cmp", "-n", "2097152", raw, image + ".raw");
        Unmount(mountPoint);
        Assert.Equal(before, File.ReadAllBytes(image));
    }

    [SkippableFact]
    public void A_mounted_image_is_checked_and_not_repaired()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        Mount(image, mountPoint);
        Run("check", image).ShouldSucceed();
        Run("check", "-U", image).ShouldSucceed();
        ProcessResult refused = Run("check", "-r", "leaks", image);
        Assert.Equal(1, refused.ExitCode);
        OneLine.Error(refused, "in use by qcow2fuse");
        Unmount(mountPoint);
        Run("check", image).ShouldSucceed();
    }

    private string NewDirtyImage()
    {
        string image = NewImage(options: "compat=1.1,lazy_refcounts=on");
        _ = ProcessRunner.Run(
            "qemu-io",
            ["-c", "write -P 1 0 1M", "-c", "write -P 2 1M 1M", "-c", "flush", "-c", "abort", "-f", "qcow2", image]);
        Assert.Equal(2, QemuTools.TryImg("check", image).ExitCode);
        byte[] expected = new byte[2 << 20];
        expected.AsSpan(0, 1 << 20).Fill(1);
        expected.AsSpan(1 << 20).Fill(2);
        File.WriteAllBytes(image + ".raw", expected);
        return image;
    }
}
