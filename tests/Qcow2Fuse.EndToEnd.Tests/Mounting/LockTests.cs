// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>A mount and a running QEMU refuse each other as two QEMUs do.</summary>
public sealed class LockTests : MountTest
{
    [SkippableTheory]
    [InlineData(false, false, false)]
    [InlineData(false, true, false)]
    [InlineData(true, false, false)]
    [InlineData(true, true, true)]
    public void A_mount_after_a_storage_daemon(bool theirsReadOnly, bool oursReadOnly, bool allowed)
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        QemuTools.RequireTool("qemu-storage-daemon");
        using StorageDaemon theirs = StorageDaemon.Open(image, theirsReadOnly);

        ProcessResult result = Run(["mount", .. oursReadOnly ? (string[])["-r"] : [], image, mountPoint]);

        Assert.Equal(allowed ? 0 : 32, result.ExitCode);
        if (!allowed)
        {
            OneLine.Error(result, "in use by qemu-storage");
            Assert.Matches("pid [0-9]+", result.Error);
        }

        Assert.Equal(allowed, IsMounted(mountPoint));
    }

    [SkippableTheory]
    [InlineData(false, false, false)]
    [InlineData(false, true, false)]
    [InlineData(true, false, false)]
    [InlineData(true, true, true)]
    public void A_storage_daemon_after_a_mount(bool oursReadOnly, bool theirsReadOnly, bool allowed)
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        QemuTools.RequireTool("qemu-storage-daemon");
        Mount(image, mountPoint, oursReadOnly ? ["-r"] : []);

        if (allowed)
        {
            using StorageDaemon theirs = StorageDaemon.Open(image, theirsReadOnly);
            return;
        }

        InvalidOperationException refusal =
            Assert.Throws<InvalidOperationException>(() => StorageDaemon.Open(image, theirsReadOnly));
        Assert.Contains("lock", refusal.Message, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Two_mounts_cannot_write_one_image()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string second = NewMountPoint("second");
        Mount(image, mountPoint);
        ProcessResult result = Run(image, second);
        Assert.Equal(32, result.ExitCode);
        OneLine.Error(result, "in use by qcow2fuse");
        Assert.False(IsMounted(second));
    }

    [SkippableFact]
    public void Two_mounts_can_read_one_image()
    {
        string image = NewImage();
        Mount(image, NewMountPoint(), "-o", "ro");
        Mount(image, NewMountPoint("second"), "-o", "ro");
    }

    [SkippableFact]
    public void Force_share_looks_at_an_image_in_use()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        QemuTools.RequireTool("qemu-storage-daemon");
        using StorageDaemon theirs = StorageDaemon.Open(image);
        string raw = Mount(image, mountPoint, "-o", "ro,force_share");
        Assert.Equal(64 << 20, new FileInfo(raw).Length);
    }
}
