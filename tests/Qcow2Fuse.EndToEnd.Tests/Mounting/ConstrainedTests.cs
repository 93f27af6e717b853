// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>
/// The program alone, as others start it: without a home, without rights, without .NET.
/// Each script runs in a mount namespace of its own, which takes all its mounts with it when it ends.
/// </summary>
public sealed class ConstrainedTests : MountTest
{
    // $1 = directory of the test, $2 = the program. Only the program is copied: nothing it could need lies beside it.
    private const string Prepare =
        """
        set -eu
        chmod 755 "$1"
        mkdir "$1/bin" "$1/place" "$1/place/mnt"
        cp "$2" "$1/bin/qcow2fuse"
        chown -R 65534:65534 "$1/place"
        mknod -m 666 "$1/fuse" c 10 229
        mount --bind "$1/fuse" /dev/fuse
        bare="env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin"
        nobody="setpriv --reuid=65534 --regid=65534 --clear-groups $bare"
        cd "$1/place"
        """;

    [SkippableFact]
    public void Root_without_a_home()
    {
        string output = RunScript(
            """
            $bare "$1/bin/qcow2fuse" create -q disk.qcow2 64M
            $bare "$1/bin/qcow2fuse" disk.qcow2 mnt
            ls mnt
            dd if=/dev/urandom of=data bs=1M count=2 status=none
            dd if=data of=mnt/disk.raw bs=1M seek=5 conv=notrunc,fsync status=none
            cmp -n 2097152 -i 0:5242880 data mnt/disk.raw && echo same
            $bare "$1/bin/qcow2fuse" umount mnt
            ls mnt
            $bare "$1/bin/qcow2fuse" info disk.qcow2 | grep 'virtual size'
            """);
        Assert.Equal("disk.raw\nsame\nvirtual size: 64 MiB (67108864 bytes)\n", output);
        QemuTools.ShouldPassCheck(PathOf("place/disk.qcow2"));
    }

    [SkippableFact]
    public void Allow_other_is_refused_to_users_with_the_line_that_allows_it()
    {
        QemuTools.RequireTool("fusermount3");
        string output = RunScript(
            """
            : > "$1/fuse.conf"
            chmod 644 "$1/fuse.conf"
            mount --bind "$1/fuse.conf" /etc/fuse.conf
            $nobody "$1/bin/qcow2fuse" create -q disk.qcow2 1M
            $nobody "$1/bin/qcow2fuse" disk.qcow2 mnt -o allow_other 2>&1 || echo "exit $?"
            """);
        Assert.Contains("user_allow_other", output, StringComparison.Ordinal);
        Assert.EndsWith("exit 1\n", output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Nothing_is_unpacked_at_the_start()
    {
        QemuTools.RequireTool("strace");
        string output = RunScript(
            """
            $bare strace -f -o trace -e trace=open,openat,mkdir,mkdirat,creat "$1/bin/qcow2fuse" --version
            grep -E 'O_CREAT|mkdir|creat\(' trace | grep -v '/memfd:\|doublemapper' || true
            """);
        Assert.Matches("^qcow2fuse [0-9]+[.][0-9]+[.][0-9]+ [(](native|ReadyToRun)[)]\n$", output);
    }

    private string RunScript(string script)
    {
        RequireMounting();
        QemuTools.RequireTool("unshare");
        QemuTools.RequireTool("setpriv");
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");
        return Tool("unshare", "-m", "sh", "-c", Prepare + "\n" + script, "sh", WorkDirectory, program!);
    }
}
