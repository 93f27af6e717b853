// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>
/// mount(8) and fstab(5) find the program as /sbin/mount.qcow2fuse. Each script runs in a mount namespace of its own
/// with such a helper; the file system of the machine is not touched.
/// </summary>
public sealed class HelperTests : MountTest
{
    // $1 = directory of the test, $2 = the program. An overlay needs no room in the real directory.
    private const string Prepare =
        """
        set -eu
        mkdir -p "$1/upper" "$1/sbin" "$1/mnt"
        mount -t tmpfs none "$1/upper"
        cp -a /sbin/. "$1/upper/"
        ln -sf "$2" "$1/upper/mount.qcow2fuse"
        mount --bind "$1/upper" "$(realpath /sbin)"
        cd "$1"
        end() {
            umount mnt
            ls mnt
        }
        """;

    [SkippableFact]
    public void Mount_by_type()
    {
        Assert.Equal(
            "disk.raw\n" + PathOf("disk.qcow2") + " fuse.qcow2fuse\n",
            RunScript("mount -t qcow2fuse disk.qcow2 mnt\nls mnt\nfindmnt -rno SOURCE,FSTYPE \"$1/mnt\"\nend"));
    }

    [SkippableFact]
    public void Options_of_others_are_ignored_and_ours_are_not()
    {
        Assert.Equal(
            "400\n1\n",
            RunScript(
                """
                mount -t qcow2fuse disk.qcow2 mnt -o ro,nofail,_netdev,user,x-systemd.automount,comment=x,noatime
                stat -c %a mnt/disk.raw
                findmnt -rno OPTIONS "$1/mnt" | grep -c 'ro,nosuid,nodev,noexec,noatime'
                end
                """));
    }

    [SkippableFact]
    public void Fstab_lines_mount_and_unmount()
    {
        Assert.Equal(
            "disk.raw\n",
            RunScript(
                """
                echo "$1/disk.qcow2 $1/mnt qcow2fuse defaults,nofail,allow_other 0 0" > fstab
                mount --fstab "$1/fstab" "$1/mnt"
                ls mnt
                end
                """));
    }

    [SkippableFact]
    public void A_fake_mount_mounts_nothing()
    {
        Assert.Equal("", RunScript("mount -f -t qcow2fuse disk.qcow2 mnt\nls mnt"));
    }

    [SkippableFact]
    public void A_remount_changes_the_flags_and_the_daemon_serves_on()
    {
        Assert.Equal(
            "ro\nread-only\nrw noatime\nwritten\n",
            RunScript(
                """
                flags() { findmnt -rno OPTIONS "$1/mnt" | tr , '\n' | grep -x "$2" | paste -sd' '; }
                again() { mount -t qcow2fuse -o "remount,$1" disk.qcow2 mnt; }
                store() { printf written | dd of=mnt/disk.raw conv=notrunc status=none 2>&1; }
                mount -t qcow2fuse disk.qcow2 mnt
                exec 3<mnt/disk.raw
                again ro
                flags "$1" 'ro\|rw'
                store | grep -q 'Read-only file system' && echo read-only
                again rw,noatime
                flags "$1" 'ro\|rw\|noatime'
                store
                head -c 7 <&3
                echo
                exec 3<&-
                umount mnt
                """));
    }

    [SkippableFact]
    public void A_remount_does_not_promise_what_the_daemon_does_not_do()
    {
        string output = RunScript(
            """
            mount -t qcow2fuse -o ro disk.qcow2 mnt
            mount -t qcow2fuse -o remount,rw disk.qcow2 mnt 2>&1 || echo exit $?
            findmnt -rno OPTIONS "$1/mnt" | cut -c1-2
            umount mnt
            mount -t qcow2fuse -o remount,ro disk.qcow2 mnt 2>&1 || echo exit $?
            """);
        string[] lines = output.Split('\n');
        Assert.Contains(lines, static line => line.EndsWith(
            "/mnt: its daemon has opened the image read-only", StringComparison.Ordinal));
        Assert.Contains(lines, static line => line.StartsWith("  hint: umount ", StringComparison.Ordinal)
            || line.StartsWith("hint: umount ", StringComparison.Ordinal));
        Assert.Contains("ro", lines);
        Assert.Contains(lines, static line => line.EndsWith("no image is mounted here", StringComparison.Ordinal));
        Assert.Equal(2, lines.Count(static line => line == "exit 32"));
    }

    [SkippableFact]
    public void A_failure_has_the_exit_code_of_a_failed_mount()
    {
        string output = RunScript("mount -t qcow2fuse none.qcow2 mnt 2>&1 || echo exit $?\nls mnt");
        Assert.StartsWith("qcow2fuse: ", output, StringComparison.Ordinal);
        Assert.EndsWith("exit 32\n", output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void An_option_nobody_knows_is_an_error_of_usage()
    {
        string output = RunScript("mount -t qcow2fuse disk.qcow2 mnt -o cahce=none 2>&1 || echo exit $?\nls mnt");
        Assert.Contains("unknown option cahce", output, StringComparison.Ordinal);
        Assert.EndsWith("exit 1\n", output, StringComparison.Ordinal);
    }

    private string RunScript(string script)
    {
        RequireMounting();
        QemuTools.RequireTool("unshare");
        QemuTools.RequireTool("findmnt");
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");
        NewImage();
        return Tool("unshare", "-m", "sh", "-c", Prepare + "\n" + script, "sh", WorkDirectory, program!);
    }
}
