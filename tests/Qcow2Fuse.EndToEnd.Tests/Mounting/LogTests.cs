// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>Where a daemon writes what happens to it.</summary>
public sealed class LogTests : MountTest
{
    private const int Error = 27;
    private const int Warning = 28;
    private const int Information = 30;

    [SkippableFact]
    public void In_the_background_the_system_s_log_hears_of_it()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        using Socket log = Listen();
        string raw = Mount(image, mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        ShouldLog(log, daemon, Information, $"mounted disk.qcow2 (64 MiB) on {mountPoint}");

        TryTool("truncate", "-s", "1M", raw);
        ShouldLog(log, daemon, Warning, "disk.raw: a change of the size was refused");

        Unmount(mountPoint);
        ShouldLog(log, daemon, Information, $"unmounted {image}");
    }

    [SkippableFact]
    public void Failing_requests_are_logged_as_errors()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage(options: "cluster_size=65536");
        QemuTools.Io(image, "write -P 7 0 64k");

        // The entry of the first cluster gets a reserved bit that no engine may ignore: an unaligned offset.
        using (FileStream file = new(image, FileMode.Open, FileAccess.ReadWrite))
        {
            file.Seek(0x40006, SeekOrigin.Begin);
            file.WriteByte(0x12);
        }

        using Socket log = Listen();
        string raw = Mount(image, mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        ShouldLog(log, daemon, Information, "mounted");
        Assert.NotEqual(0, TryTool("dd", "if=" + raw, "of=/dev/null", "bs=4k", "count=1", "iflag=direct").ExitCode);
        ShouldLog(log, daemon, Error, "request failed");
        Unmount(mountPoint);
    }

    [SkippableFact]
    public void A_log_that_is_not_read_delays_nobody()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        using Socket log = Listen();
        for (int i = 0; i < 3; i++)
        {
            // Nobody reads: what does not fit into the socket is dropped.
            Mount(image, mountPoint);
            int daemon = Assert.Single(DaemonsOf(mountPoint));
            for (int k = 0; k < 200; k++)
                Signal(daemon, "HUP");
            Unmount(mountPoint);
        }
    }

    [SkippableTheory]
    [InlineData("missing")]
    [InlineData("longer than the name of any socket may be")]
    public void Without_a_log_daemon_all_else_goes_on(string socket)
    {
        string mountPoint = NewMountPoint();
        SetEnvironment("QCOW2FUSE_LOG_SOCKET", PathOf(socket.Contains(' ') ? new string('x', 200) : socket));
        ProcessResult result = Run(NewImage(), mountPoint);
        Assert.Equal((0, "", ""), (result.ExitCode, result.Output, result.Error));
        Unmount(mountPoint);
    }

    [SkippableTheory]
    [InlineData(true, "<6>mounted ")]
    [InlineData(false, "qcow2fuse: mounted ")]
    public void The_journal_gets_priorities_and_nobody_else_does(bool isJournal, string expected)
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        QemuTools.Require(FindProgram() is not null, "out/qcow2fuse is not built");
        string script = "exec 2>err; JOURNAL_STREAM=$(stat -Lc %d:%i "
            + (isJournal ? "err" : "/dev/null") + ") exec \"$0\" mount --foreground \"$1\" \"$2\"";
        ProcessStartInfo start = new("sh", ["-c", script, FindProgram()!, image, mountPoint])
        { WorkingDirectory = WorkDirectory };
        using Process daemon = Process.Start(start)!;
        WaitUntil(() => File.Exists(RawFileOf(image, mountPoint)), "the raw file does not appear");
        Unmount(mountPoint);
        Assert.True(daemon.WaitForExit(Eventually.Patience), "the daemon does not end");
        Assert.StartsWith(expected, File.ReadAllText(PathOf("err")), StringComparison.Ordinal);
    }

    [SkippableTheory]
    [InlineData(true, "<3>")]
    [InlineData(false, "qcow2fuse: ")]
    public void The_journal_gets_why_a_mount_does_not_begin_as_an_error(bool isJournal, string expected)
    {
        string mountPoint = NewMountPoint();
        QemuTools.Require(FindProgram() is not null, "out/qcow2fuse is not built");
        string script = "exec 2>err; JOURNAL_STREAM=$(stat -Lc %d:%i "
            + (isJournal ? "err" : "/dev/null") + ") exec \"$0\" mount --foreground none.qcow2 \"$1\"";
        ProcessResult result = ProcessRunner.Run("sh", ["-c", script, FindProgram()!, mountPoint], WorkDirectory);
        Assert.Equal(32, result.ExitCode);
        string[] lines = File.ReadAllLines(PathOf("err"));
        Assert.StartsWith(expected + PathOf("none.qcow2") + ":", lines[0], StringComparison.Ordinal);
        Assert.All(
            lines[1..], line => Assert.StartsWith(isJournal ? expected : "hint: ", line, StringComparison.Ordinal));
    }

    [SkippableFact]
    public void With_auto_unmount_a_killed_daemon_leaves_no_mount()
    {
        QemuTools.RequireTool("fusermount3");
        string mountPoint = NewMountPoint();
        string image = NewImage();
        Mount(image, mountPoint, "-o", "auto_unmount");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Signal(daemon, "KILL");
        WaitForEnd(daemon);
        WaitUntil(() => !IsMounted(mountPoint), "the mount stays");

        Mount(image, mountPoint, "-o", "auto_unmount");
        Run("umount", mountPoint).ShouldSucceed();
        Assert.False(IsMounted(mountPoint));
    }

    private Socket Listen()
    {
        SetEnvironment("QCOW2FUSE_LOG_SOCKET", PathOf("log"));
        Socket socket = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified)
        { ReceiveTimeout = (int)Eventually.Patience.TotalMilliseconds };
        socket.Bind(new UnixDomainSocketEndPoint(PathOf("log")));
        return socket;
    }

    private static void ShouldLog(Socket log, int daemon, int priority, string message)
    {
        byte[] buffer = new byte[4096];
        string line = Encoding.UTF8.GetString(buffer, 0, log.Receive(buffer));
        Assert.Matches($@"^<{priority}>[A-Z][a-z][a-z] [ 0-9][0-9] [0-9:]{{8}} qcow2fuse\[{daemon}\]: ", line);
        Assert.Contains($"]: {message}", line, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', line);
    }
}
