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

    /// <summary>Without a line of fstab mount(8) takes the options from the kernel's list, and all of them.</summary>
    [SkippableTheory]
    [InlineData("mount.fuse.qcow2fuse", "")]
    [InlineData("mount.fuse.qcow2fuse", ",allow_other,max_read=65536")]
    [InlineData("mount.fuse3", ",allow_other")]
    public void A_remount_needs_no_line_of_fstab(string helper, string options)
    {
        string link = helper == "mount.fuse3"
            ? """
              test -e /sbin/mount.fuse3 || { echo 'ro rw'; exit 0; }
              ln -sf mount.fuse3 "$1/upper/mount.fuse"
              ln -sf "$2" "$1/upper/qcow2fuse"
              export PATH=/usr/sbin:/usr/bin:/sbin:/bin

              """
            : $"ln -sf \"$2\" \"$1/upper/{helper}\"\n";
        Assert.Equal(
            "ro rw\n",
            RunScript(
                link
                + $"mount -t fuse.qcow2fuse -o 'rw{options}' disk.qcow2 mnt\n"
                + """
                  : > fstab
                  flag() { findmnt -rno OPTIONS "$1/mnt" | cut -c1-2; }
                  mount --fstab "$1/fstab" -o remount,ro "$1/mnt"
                  first=$(flag "$1")
                  mount --fstab "$1/fstab" -o remount,rw "$1/mnt"
                  echo "$first $(flag "$1")"
                  umount mnt
                  """));
    }

    /// <summary>A mount of a user is remounted by root, who alone may do that.</summary>
    [SkippableFact]
    public void A_mount_made_by_another_user_is_remounted_by_root()
    {
        QemuTools.RequireTool("fusermount3");
        Assert.Equal(
            "ro\n",
            RunScript(
                """
                chmod 755 "$1"
                mknod -m 666 fuse c 10 229
                mount --bind fuse /dev/fuse
                chown nobody disk.qcow2 mnt
                echo "$1/disk.qcow2 $1/mnt qcow2fuse setuid=nobody,nofail 0 0" > fstab
                mount --fstab "$1/fstab" "$1/mnt"
                mount --fstab "$1/fstab" -o remount,ro "$1/mnt"
                findmnt -rno OPTIONS "$1/mnt" | cut -c1-2
                umount mnt
                """));
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

    /// <summary>As mount(8) has it for its <c>-s</c>.</summary>
    [SkippableFact]
    public void A_sloppy_mount_tolerates_options_that_nobody_knows()
    {
        Assert.Equal(
            "disk.raw\n400\n",
            RunScript(
                """
                mount -s -t qcow2fuse disk.qcow2 mnt -o cahce=none,ro
                ls mnt
                stat -c %a mnt/disk.raw
                end
                """));
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
