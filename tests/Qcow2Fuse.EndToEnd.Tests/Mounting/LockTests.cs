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

    /// <summary>Where the user wants no locks, the daemon itself does not open a file twice to write to it.</summary>
    [SkippableFact]
    public void One_daemon_writes_a_file_by_one_of_its_names()
    {
        Directory.CreateDirectory(PathOf("images"));
        string image = NewImage(name: "images/a.qcow2");
        Tool("ln", image, PathOf("images/b.qcow2"));
        QemuTools.RequireTool("qemu-img");
        Tool(
            "sh", "-c", "cd \"$1\" && qemu-img create -q -f qcow2 -o data_file=d.raw c.qcow2 1M", "sh",
            PathOf("images"));
        Tool("cp", PathOf("images/c.qcow2"), PathOf("images/e.qcow2"));
        string mountPoint = NewMountPoint();
        Run("mount", "-o", "no_lock", PathOf("images"), mountPoint).ShouldSucceed();
        ShouldExclude("a.raw", "b.raw");
        ShouldExclude("c.raw", "e.raw");

        void ShouldExclude(string one, string other)
        {
            using (FileStream file = File.OpenWrite(Path.Combine(mountPoint, one)))
            {
                file.Write("one"u8);
                file.Flush(flushToDisk: true);
                ProcessResult result = TryTool(
                    "dd", $"of={Path.Combine(mountPoint, other)}", "if=/dev/zero", "bs=512", "count=1", "conv=notrunc");
                Assert.NotEqual(0, result.ExitCode);
                Assert.Contains("busy", result.Error, StringComparison.Ordinal);
            }

            using FileStream again = File.OpenRead(Path.Combine(mountPoint, one));
            Assert.Equal((byte)'o', again.ReadByte());
        }
    }
}
