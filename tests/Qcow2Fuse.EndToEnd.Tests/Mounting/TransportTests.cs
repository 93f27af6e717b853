// SPDX-License-Identifier: MIT
using System.Net.Sockets;
using System.Text;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>The ways of requests from the kernel: /dev/fuse, and io_uring where the kernel's switch is on.</summary>
public sealed class TransportTests : MountTest
{
    [SkippableTheory]
    [InlineData("compat=1.1")]
    [InlineData("extended_l2=on,cluster_size=128k")]
    public void Fio_verifies_over_io_uring(string options)
    {
        string image = NewImage("256M", options);
        string mountPoint = NewMountPoint();
        string raw = MountWith(on: true, image, mountPoint, "transport=uring");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Assert.NotEqual(0, RingsOf(daemon));
        Tool(
            "fio", "--name=job", "--filename=" + raw, "--allow_file_create=0", "--direct=1", "--rw=randwrite",
            "--bsrange=512-256k", "--blockalign=512", "--size=48m", "--numjobs=4", "--offset_increment=64m",
            "--ioengine=libaio", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
            "--fsync=200", "--output=" + PathOf("fio.log"));
        Tool("fallocate", "-p", "-o", "1000000", "-l", "3000000", raw);
        Tool("cp", "--sparse=auto", raw, PathOf("copy"));
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
        Tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, PathOf("copy"));
    }

    [SkippableFact]
    public void Where_the_kernel_does_not_offer_it_dev_fuse_serves_and_the_log_says_so()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        SetEnvironment("QCOW2FUSE_LOG_SOCKET", PathOf("log"));
        using Socket log = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified)
        { ReceiveTimeout = (int)Eventually.Patience.TotalMilliseconds };
        log.Bind(new UnixDomainSocketEndPoint(PathOf("log")));
        string raw = MountWith(on: false, image, mountPoint, "transport=uring");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Assert.Equal(0, RingsOf(daemon));
        byte[] buffer = new byte[4096];
        string line = Encoding.UTF8.GetString(buffer, 0, log.Receive(buffer));
        Assert.EndsWith(
            "no FUSE over io_uring, /dev/fuse serves: /sys/module/fuse/parameters/enable_uring is N", line.TrimEnd(),
            StringComparison.Ordinal);
        Assert.StartsWith("<30>", line, StringComparison.Ordinal);
        Tool("dd", "if=/dev/urandom", "of=" + raw, "bs=1M", "count=4", "conv=notrunc,fsync", "status=none");
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
    }

    [SkippableTheory]
    [InlineData("transport=fuse")]
    [InlineData("transport=auto")]
    public void Rings_are_used_only_when_asked_for(string option)
    {
        string mountPoint = NewMountPoint();
        MountWith(on: true, NewImage(), mountPoint, option);
        Assert.Equal(0, RingsOf(Assert.Single(DaemonsOf(mountPoint))));
        Unmount(mountPoint);
    }

    [SkippableTheory]
    [InlineData("TERM")]
    [InlineData("KILL")]
    public void A_signal_ends_it_also_under_load(string signal)
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = MountWith(on: true, image, mountPoint, "transport=uring");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Task<ProcessResult> load = BeginWriting(image, () => Task.Run(() => TryTool(
            "timeout", "100", "fio", "--name=job", "--filename=" + raw, "--allow_file_create=0", "--direct=1",
            "--rw=randrw", "--bs=4k", "--ioengine=libaio", "--iodepth=16", "--runtime=3", "--time_based",
            "--output=" + PathOf("fio.log"))));
        Signal(daemon, signal);
        WaitForEnd(daemon);
        Assert.True(load.Wait(Eventually.Patience), "fio hangs");
        if (signal == "KILL")
            Tool("umount", "-l", mountPoint);
        Assert.False(IsMounted(mountPoint));

        // A killed daemon may leave clusters that nothing refers to, and no errors.
        int verdict = QemuTools.TryImg("check", image).ExitCode;
        Assert.True(verdict is 0 or 3, $"qemu-img check: {verdict}");
    }

    [SkippableFact]
    public void With_auto_unmount_dev_fuse_serves_and_a_killed_daemon_leaves_no_mount()
    {
        QemuTools.RequireTool("fusermount3");
        string mountPoint = NewMountPoint();
        string raw = MountWith(on: true, NewImage(), mountPoint, "transport=uring,auto_unmount");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Assert.Equal(0, RingsOf(daemon));
        Assert.Equal(64 << 20, new FileInfo(raw).Length);
        Signal(daemon, "KILL");
        WaitForEnd(daemon);
        WaitUntil(() => !IsMounted(mountPoint), "the mount stays");
    }

    /// <summary>Mounts while the kernel's switch is on or off; only the start of a mount looks at it.</summary>
    private string MountWith(bool on, string image, string mountPoint, string option)
    {
        UringSwitch.Require();
        using UringSwitch held = UringSwitch.Hold(on);
        return Mount(image, mountPoint, "-o", option);
    }
}
