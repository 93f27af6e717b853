// SPDX-License-Identifier: MIT
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>
/// The ways in which others call a mount program. Each script runs in a mount namespace of its own, with the program as
/// helper in /sbin and with a /dev/fuse for everybody; the machine's own files are not touched.
/// </summary>
public sealed class MountFormTests : MountTest
{
    // $1 = directory of the test, $2 = the program.
    private const string Prepare =
        """
        set -eu
        chmod 755 "$1"
        mkdir -p "$1/upper" "$1/sbin" "$1/mnt" "$1/second"
        mount -t tmpfs none "$1/upper"
        cp -a /sbin/. "$2" "$1/upper/"
        ln -sf qcow2fuse "$1/upper/mount.qcow2fuse"
        mount --bind "$1/upper" "$(realpath /sbin)"
        mknod -m 666 "$1/fuse" c 10 229
        mount --bind "$1/fuse" /dev/fuse
        export PATH=/usr/sbin:/usr/bin:/sbin:/bin
        cd "$1"
        gone() {
            for i in $(seq 200); do pgrep -f "$1" >/dev/null || return 0; sleep 0.1; done
            echo "$1 is still running"
        }
        """;

    [SkippableFact]
    public void Mount_fuse3_by_type()
    {
        QemuTools.RequireTool("mount.fuse3");
        Assert.Equal(
            $"disk.raw\n{PathOf("disk.qcow2")} fuse.qcow2fuse\nro,nosuid,nodev\n",
            RunScript(
                """
                mount -t fuse.qcow2fuse "$1/disk.qcow2" "$1/mnt" -o ro
                ls mnt
                findmnt -rno SOURCE,FSTYPE "$1/mnt"
                findmnt -rno OPTIONS "$1/mnt" | grep -o '^ro,nosuid,nodev'
                umount mnt
                gone "$1/disk.qcow2"
                """));
    }

    [SkippableFact]
    public void With_drop_privileges_the_session_comes_as_a_descriptor()
    {
        QemuTools.RequireTool("mount.fuse3");
        string output = RunScript(
            """
            mount -t fuse.qcow2fuse "$1/disk.qcow2" "$1/mnt" -o drop_privileges
            daemon=$(pgrep -f "$1/disk.qcow2")
            grep CapEff "/proc/$daemon/status"
            tr '\0' ' ' < "/proc/$daemon/cmdline" | grep -o '/dev/fd/[0-9]*' | sed 's/[0-9]*$/N/'
            findmnt -rno SOURCE,FSTYPE "$1/mnt"
            printf hello | dd of=mnt/disk.raw bs=1M seek=7 conv=notrunc,fsync status=none
            umount mnt
            gone "$1/disk.qcow2"
            """);
        Assert.Equal("CapEff:\t0000000000000000\n/dev/fd/N\nqcow2fuse fuse.qcow2fuse\n", output);
        QemuTools.ShouldPassCheck(PathOf("disk.qcow2"));
        Assert.Equal("hello"u8.ToArray(), QemuTools.ConvertToRaw(PathOf("disk.qcow2"))[(7 << 20)..][..5]);
    }

    [SkippableFact]
    public void A_session_that_may_not_be_unmounted_ends_at_once_by_a_signal()
    {
        QemuTools.RequireTool("mount.fuse3");
        string output = RunScript(
            """
            mount -t fuse.qcow2fuse "$1/disk.qcow2" "$1/mnt" -o drop_privileges
            printf hello | dd of=mnt/disk.raw conv=notrunc status=none
            pkill -TERM -f "$1/disk.qcow2"
            for i in $(seq 50); do pgrep -f "$1/disk.qcow2" >/dev/null || break; sleep 0.1; done
            pgrep -c -f "$1/disk.qcow2" || true
            umount -l mnt
            """);
        Assert.Equal("0\n", output);
        QemuTools.ShouldPassCheck(PathOf("disk.qcow2"));
        Assert.Equal("hello"u8.ToArray(), QemuTools.ConvertToRaw(PathOf("disk.qcow2"))[..5]);
    }

    [SkippableTheory]
    [InlineData("/dev/fd/99", "not a descriptor of /dev/fuse")]
    [InlineData("/dev/fd/0", "not a descriptor of /dev/fuse")]
    public void Another_descriptor_is_refused(string descriptor, string expected)
    {
        RequireMounting();
        ProcessResult result = Run(NewImage(), descriptor);
        Assert.Equal(32, result.ExitCode);
        OneLine.Error(result, expected);
    }

    [SkippableFact]
    public void A_user_is_root_in_a_namespace_of_his_own()
    {
        string output = RunScript(
            """
            chown -R 65534:65534 mnt disk.qcow2
            chown 65534:65534 .
            nobody="setpriv --reuid=65534 --regid=65534 --clear-groups"
            $nobody unshare -Urm true || { echo impossible; exit; }
            $nobody unshare -Urm sh -euc '
                qcow2fuse disk.qcow2 mnt
                findmnt -rno FSTYPE "$PWD/mnt"
                printf hello | dd of=mnt/disk.raw conv=notrunc,fsync status=none
                qcow2fuse umount mnt
                ls mnt'
            """);
        Skip.If(output.EndsWith("impossible\n", StringComparison.Ordinal), "users may not make user namespaces here");
        Assert.Equal("fuse.qcow2fuse\n", output);
        Assert.Equal("hello"u8.ToArray(), QemuTools.ConvertToRaw(PathOf("disk.qcow2"))[..5]);
    }

    [SkippableFact]
    public void A_user_mounts_by_type_and_unmounts()
    {
        QemuTools.RequireTool("fusermount3");
        string output = RunScript(
            """
            chown -R 65534:65534 mnt disk.qcow2
            nobody="setpriv --reuid=65534 --regid=65534 --clear-groups"
            $nobody mount -t qcow2fuse disk.qcow2 mnt
            $nobody stat -c '%u %s' mnt/disk.raw
            $nobody fusermount3 -u mnt
            gone "$1/disk.qcow2"
            """);
        Assert.Equal("65534 67108864\n", output);
    }

    [SkippableFact]
    public void Root_has_a_user_mount_who_has_a_control_socket()
    {
        QemuTools.RequireTool("fusermount3");
        string output = RunScript(
            """
            chown -R 65534:65534 mnt
            chown 65534 disk.qcow2; chmod 600 disk.qcow2
            mkdir -p run/65534; chown 65534 run/65534; chmod 700 run/65534
            mkdir -p /run/user; mount --bind run /run/user
            mount -t qcow2fuse -o setuid=nobody disk.qcow2 mnt
            daemon=$(pgrep -f "$1/disk.qcow2")
            grep -E '^(Uid|Gid|Groups|CapEff)' "/proc/$daemon/status" | tr '\t' ' '
            nobody="setpriv --reuid=65534 --regid=65534 --clear-groups env -u XDG_RUNTIME_DIR"
            $nobody stat -c '%u' mnt/disk.raw
            ls /run/user/65534/qcow2fuse | sed "s/$daemon/PID/"
            $nobody qcow2fuse umount disk.qcow2
            gone "$1/disk.qcow2"
            ls mnt
            $nobody qcow2fuse mount -o setuid=root disk.qcow2 mnt || echo "exit $?"
            qcow2fuse mount -o setuid=nosuchuser disk.qcow2 mnt || echo "exit $?"
            """);
        Assert.Equal(
            "Uid: 65534 65534 65534 65534\nGid: 65534 65534 65534 65534\nGroups: 65534 \nCapEff: 0000000000000000\n"
            + "65534\nPID.sock\nexit 1\nexit 1\n",
            output);
    }

    /// <summary>su(1) and sudo(8) may leave the variable as it was.</summary>
    [SkippableFact]
    public void A_runtime_directory_of_somebody_else_is_not_used()
    {
        QemuTools.RequireTool("fusermount3");
        string output = RunScript(
            """
            chown 65534 disk.qcow2
            mkdir -m 700 root; mkdir -m 777 open; ln -s open link
            mkdir -m 700 own; chown 65534 own
            mkdir -m 1777 tmp
            nobody="setpriv --reuid=65534 --regid=65534 --clear-groups env TMPDIR=$1/tmp"
            for directory in root open link own; do
                echo "$directory: $($nobody XDG_RUNTIME_DIR="$1/$directory" \
                    qcow2fuse run disk.qcow2 -- sh -c 'echo $QCOW2FUSE_DISK' 2>&1 | sed "s:$1/::; s:-[^/]*/:-ID/:")"
            done
            ls root open
            """);
        Assert.Equal(
            "root: tmp/qcow2fuse-ID/disk.raw\nopen: tmp/qcow2fuse-ID/disk.raw\nlink: tmp/qcow2fuse-ID/disk.raw\n"
            + "own: own/qcow2fuse/run/ID/disk.raw\nopen:\n\nroot:\n",
            System.Text.RegularExpressions.Regex.Replace(output, "run/[0-9a-f]{16}/", "run/ID/"));
    }

    [SkippableFact]
    public void A_user_is_told_who_keeps_his_mount_in_use()
    {
        QemuTools.RequireTool("fusermount3");
        string output = RunScript(
            """
            chown -R 65534:65534 mnt disk.qcow2
            qcow2fuse create -q other.qcow2 8M
            qcow2fuse mount other.qcow2 second
            nobody="setpriv --reuid=65534 --regid=65534 --clear-groups"
            $nobody qcow2fuse disk.qcow2 mnt
            $nobody sh -c 'cd mnt && exec sleep 60' &
            for i in $(seq 100); do [ "$(readlink /proc/$!/cwd)" = "$1/mnt" ] && break; sleep 0.1; done
            $nobody qcow2fuse umount mnt 2>&1 | sed "s/$!/PID/; s,$1,DIR,"
            $nobody qcow2fuse umount mnt 2>/dev/null || echo "busy $?"
            kill $!
            wait $! || true
            $nobody qcow2fuse umount second 2>&1 || echo "not his $?"
            $nobody qcow2fuse umount 2>/dev/null || echo "usage $?"
            $nobody qcow2fuse umount --nothing mnt 2>/dev/null || echo "usage $?"
            $nobody qcow2fuse umount mnt
            $nobody qcow2fuse umount mnt 2>/dev/null || echo "not mounted $?"
            $nobody qcow2fuse umount nowhere 2>/dev/null || echo "not there $?"
            qcow2fuse umount second
            """);
        Assert.Equal(
            "qcow2fuse: DIR/mnt: in use: sleep (pid PID) stands in it\n"
            + "hint: umount -l DIR/mnt detaches it until they let go\n"
            + "busy 32\n"
            + "qcow2fuse: DIR/second: is another user's mount\nnot his 1\n"
            + "usage 1\nusage 1\nnot mounted 32\nnot there 32\n",
            output.Replace(WorkDirectory, "DIR", StringComparison.Ordinal));
    }

    [SkippableFact]
    public void All_of_a_table_is_mounted_and_a_missing_image_with_nofail_is_no_failure()
    {
        NewImage("8M", name: "other.qcow2");
        string output = RunScript(
            """
            {
                echo "$1/disk.qcow2 $1/mnt qcow2fuse defaults,nofail 0 0"
                echo "$1/none.qcow2 $1/sbin qcow2fuse ro,nofail 0 0"
                echo "$1/other.qcow2 $1/second qcow2fuse ro,noexec 0 0"
            } > fstab
            mount -T fstab -a && echo "exit $?"
            ls mnt sbin second
            umount mnt second
            echo "$1/none.qcow2 $1/sbin qcow2fuse ro 0 0" > fstab
            mount -T fstab -a 2>&1 || echo failed
            """);
        Assert.Matches(
            "^exit 0\nmnt:\ndisk[.]raw\n\nsbin:\n\nsecond:\nother[.]raw\n"
            + "qcow2fuse: .*none[.]qcow2: .*\n(hint: .*\n)?failed\n$",
            output);
    }

    [SkippableFact]
    public void An_image_can_be_covered_by_its_own_content()
    {
        RequireMounting();
        string image = NewImage();
        _ = NewMountPoint("disk.qcow2.d");
        Run("mount", image, image).ShouldSucceed();
        try
        {
            Assert.Equal(64 << 20, new FileInfo(image).Length);
            Tool("dd", "if=/dev/zero", "of=" + image, "bs=1M", "count=3", "conv=notrunc,fsync", "status=none");
        }
        finally
        {
            Run("umount", image).ShouldSucceed();
        }

        Assert.InRange(new FileInfo(image).Length, 3 << 20, 5 << 20);
        QemuTools.ShouldPassCheck(image);
    }

    [SkippableFact]
    public void A_loop_device_that_was_named_is_what_is_opened()
    {
        RequireMounting();
        QemuTools.Require(File.Exists("/dev/loop-control"), "there are no loop devices");
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string loop = Tool("losetup", "--find", "--show", image).Trim();
        try
        {
            // The device has no half sectors, so the end of a new image is not on it.
            long size = new FileInfo(image).Length;
            Assert.Contains(
                $"qcow2fuse: warning: {loop}: shows {size / 512 * 512} of the {size} bytes of {image}\n",
                Run("mount", loop, mountPoint).Error, StringComparison.Ordinal);
            using (FileStream file = File.OpenWrite(image))
                file.SetLength(1 << 20);
            Tool("losetup", "--set-capacity", loop);
            ProcessResult mounted = Run("mount", loop, mountPoint).ShouldSucceed();
            Assert.Equal("", mounted.Error);
            Assert.Equal(loop, Tool("findmnt", "-rno", "SOURCE", mountPoint).Trim());
            Assert.Equal(64 << 20, new FileInfo(RawFileOf(loop, mountPoint)).Length);
            Unmount(mountPoint);
        }
        finally
        {
            Tool("losetup", "--detach", loop);
        }
    }

    [SkippableFact]
    public void The_needless_option_loop_does_no_harm()
    {
        QemuTools.Require(File.Exists("/dev/loop-control"), "there are no loop devices");
        string output = RunScript(
            """
            mount -t qcow2fuse -o loop "$1/disk.qcow2" "$1/mnt" 2>message
            ls mnt
            findmnt -rno SOURCE "$1/mnt"
            losetup -n -O NAME -j "$1/disk.qcow2"
            printf hello | dd of=mnt/disk.raw conv=notrunc,fsync status=none
            umount mnt
            gone "$1/mnt"
            """);
        Assert.Equal($"disk.raw\n{PathOf("disk.qcow2")}\n", output);
        QemuTools.ShouldPassCheck(PathOf("disk.qcow2"));
    }

    private string RunScript(string script)
    {
        RequireMounting();
        foreach (string tool in (string[])["unshare", "setpriv", "findmnt", "pgrep"])
            QemuTools.RequireTool(tool);
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");
        NewImage();
        return Tool("unshare", "-m", "sh", "-c", Prepare + "\n" + script, "sh", WorkDirectory, program!);
    }
}
