// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text.Json;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Restart;

/// <summary>
/// A service manager, here this process, has all descriptors of a daemon. It is not taken for the daemon.
/// </summary>
public sealed class KeptDescriptorTests : RestartTest
{
    [SkippableFact]
    public void The_list_names_the_daemon_and_asks_it()
    {
        Begin();
        Assert.NotEmpty(Manager.Names);
        JsonElement mount = Assert.Single(
            JsonDocument.Parse(Run("list", "-v", "--output=json").ShouldSucceed().Output)
                .RootElement.GetProperty("mounts").EnumerateArray(),
            one => one.GetProperty("mount-point").GetString() == MountPoint);
        Assert.Equal(Manager.ProcessId, mount.GetProperty("pid").GetInt32());
        Assert.Equal(Manager.ProcessId, mount.GetProperty("daemon").GetProperty("pid").GetInt32());
        Stop();
    }

    [SkippableFact]
    public void A_second_mount_is_told_who_has_the_image()
    {
        Begin();
        ProcessResult result = Run("mount", Image, NewMountPoint("other"));
        Assert.Equal(32, result.ExitCode);
        OneLine.Error(result, string.Create(CultureInfo.InvariantCulture, $"(pid {Manager.ProcessId})"));
        Stop();
    }

    [SkippableFact]
    public void A_snapshot_has_what_was_written_to_a_loop_device_before_it()
    {
        QemuTools.Require(File.Exists("/dev/loop-control"), "there are no loop devices");
        Begin();
        byte[] written = Stamp.Bytes(0, 1 << 20, 5);
        string loop = Tool("losetup", "-f", "--show", Raw).Trim();
        try
        {
            // It stays open: closing the device would have the kernel write everything out.
            using FileStream device = new(loop, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
            device.Write(written);
            device.Flush();
            Run("snapshot", "-c", "s", Image).ShouldSucceed();
        }
        finally
        {
            Tool("losetup", "-d", loop);
        }

        Assert.Equal(0, Manager.End("TERM"));
        QemuTools.Img("snapshot", "-a", "s", Image);
        Assert.Equal(written, QemuTools.ConvertToRaw(Image)[..written.Length]);
    }

    [SkippableFact]
    public void Umount_waits_for_the_daemon_and_not_for_the_manager()
    {
        Begin();
        Run("umount", MountPoint).ShouldSucceed();
        Assert.Equal(0, Manager.WaitForEnd());
    }

    /// <summary>Nobody serves it then, and nobody is waited for.</summary>
    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_kept_mount_without_a_daemon_is_unmounted(bool lazy)
    {
        Begin();
        Assert.Equal(137, Manager.End("KILL"));
        Run(["umount", .. lazy ? (string[])["-l"] : [], MountPoint]).ShouldSucceed();
        Assert.False(IsMounted(MountPoint));
        Manager.Drop();
    }
}
