// SPDX-License-Identifier: MIT
using System.Net.Sockets;
using System.Text;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>The program as a lone file, in the surroundings it meets outside of this repository.</summary>
public sealed class StandaloneTests : MountTest
{
    private const string Nobody = "65534";

    [SkippableFact]
    public void It_runs_alone_without_a_home_as_nobody()
    {
        string program = CopyOfProgram();
        string image = NewImage();
        Tool("chmod", "0644", image);
        string output = Tool(
            "env", "-i", "setpriv", "--reuid=" + Nobody, "--regid=" + Nobody, "--clear-groups",
            program, "info", "-U", image);
        Assert.Contains("virtual size: 64 MiB", output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void It_mounts_under_a_limit_of_address_space()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        Tool("env", "-i", "prlimit", "--as=1073741824", CopyOfProgram(), image, mountPoint);
        string file = RawFileOf(image, mountPoint);
        using (FileStream stream = new(file, FileMode.Open, FileAccess.ReadWrite))
            stream.Write(Stamp.Bytes(0, 8 << 20, 5));
        Assert.True(File.ReadAllBytes(file).AsSpan(0, 8 << 20).SequenceEqual(Stamp.Bytes(0, 8 << 20, 5)));
        Unmount(mountPoint);
    }

    [SkippableFact]
    public void An_ordinary_user_mounts_through_fusermount3()
    {
        RequireMounting();
        string program = CopyOfProgram();
        string image = NewImage();
        Directory.CreateDirectory(PathOf("mine"));
        Tool("chown", Nobody, image, PathOf("mine"));

        // On some machines the device is root's alone; in a mount namespace of its own it is everybody's.
        string script =
            "set -e; mknod -m 666 \"$2/fuse\" c 10 229; mount --bind \"$2/fuse\" /dev/fuse; cd \"$2\"; "
            + "as() { setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"; }; "
            + "as \"$1\" disk.qcow2 mine; as ls -n mine; "
            + "as dd if=/dev/zero of=mine/disk.raw bs=1M count=2 status=none; "
            + "as \"$1\" umount mine; as \"$1\" info disk.qcow2";
        ProcessResult result = TryTool("unshare", "-m", "sh", "-c", script, "sh", program, WorkDirectory);
        Assert.True(result.ExitCode == 0, result.Output + result.Error);
        Assert.Contains("1 65534 65534 67108864", result.Output, StringComparison.Ordinal);
        Assert.Contains("disk size: 2", result.Output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void As_mount_helper_it_takes_what_mount_gives()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        File.CreateSymbolicLink(PathOf("mount.qcow2fuse"), CopyOfProgram());
        Tool(PathOf("mount.qcow2fuse"), image, mountPoint, "-sfnv", "-o", "rw");
        Assert.False(IsMounted(mountPoint));

        Tool(
            PathOf("mount.qcow2fuse"), image, mountPoint, "-n", "-o",
            "ro,noexec,nosuid,nodev,noatime,nofail,_netdev,user,x-systemd.automount", "-t", "qcow2fuse");
        string options = Tool("findmnt", "-no", "OPTIONS", mountPoint);
        Assert.Contains("ro,nosuid,nodev,noexec,noatime", options, StringComparison.Ordinal);
        Assert.Equal(image, Tool("findmnt", "-no", "SOURCE", mountPoint).Trim());
        Unmount(mountPoint);
    }

    [SkippableFact]
    public void The_service_manager_is_told()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        using Socket socket = new(
            AddressFamily.Unix,
            SocketType.Dgram,
            ProtocolType.Unspecified)
        { ReceiveTimeout = (int)Eventually.Patience.TotalMilliseconds };
        socket.Bind(new UnixDomainSocketEndPoint(PathOf("notify")));
        SetEnvironment("NOTIFY_SOCKET", PathOf("notify"));
        Mount(image, mountPoint);
        Assert.Contains("READY=1", ReceiveFrom(socket), StringComparison.Ordinal);
        Unmount(mountPoint);
        Assert.Contains("STOPPING=1", ReceiveFrom(socket), StringComparison.Ordinal);
    }

    private static string ReceiveFrom(Socket socket)
    {
        byte[] buffer = new byte[4096];
        return Encoding.UTF8.GetString(buffer, 0, socket.Receive(buffer));
    }

    /// <summary>The program where nothing else of its build lies, readable by everybody.</summary>
    private string CopyOfProgram()
    {
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");
        string copy = PathOf("alone");
        File.Copy(program!, copy);
        Tool("chmod", "0755", copy, WorkDirectory);
        return copy;
    }
}
