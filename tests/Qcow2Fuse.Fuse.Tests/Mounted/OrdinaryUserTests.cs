// SPDX-License-Identifier: MIT
using Xunit;

namespace Qcow2Fuse.Fuse.Tests.Mounted;

/// <summary>
/// Mounting as a user without rights, by way of fusermount3, in a mount namespace with a /dev/fuse for everybody.
/// </summary>
public sealed class OrdinaryUserTests
{
    // $1 = scratch directory, $2 = directory of the host program, $3 = words for it, $4 = what to do with it.
    private const string Script =
        """
        set -e
        chmod 755 "$1"
        mkdir "$1/mnt" "$1/bin"
        chown 65534:65534 "$1/mnt"
        cp -r "$2"/Qcow2Fuse* "$1/bin"
        mknod -m 666 "$1/fuse" c 10 229
        mount --bind "$1/fuse" /dev/fuse
        user="setpriv --reuid=65534 --regid=65534 --clear-groups env -u HOME"
        as_user() { $user "$@"; }
        start() {
            : > "$1/out"
            $user "$1/bin/Qcow2Fuse.Fuse.TestHost" "$1/mnt" 67108864 -o "uid=65534$2" > "$1/out" 2>&1 &
            host=$!
            for i in $(seq 100); do
                if grep -q . "$1/out"; then break; fi
                sleep 0.1
            done
            head -n 1 "$1/out"
        }
        start "$1" "$3"
        use() {
            as_user dd if=/dev/urandom of="$1/data" bs=1M count=2 status=none
            as_user dd if="$1/data" of="$1/mnt/disk.raw" bs=1M conv=notrunc,fsync status=none
            as_user cmp -n 2097152 "$1/data" "$1/mnt/disk.raw" && echo same
        }
        chmod 777 "$1"
        eval "$4"
        """;

    [SkippableFact]
    public void MountsReadsAndWrites()
    {
        (int exitCode, string output) = Run(
            "", "use \"$1\"; kill $host; wait $host; echo ended $?; ! grep -q \"$1/mnt\" /proc/self/mountinfo");
        Assert.Equal((0, "ready\nsame\nended 0\n"), (exitCode, output));
    }

    [SkippableFact]
    public void UnmountsByFusermount()
    {
        (int exitCode, string output) = Run("", "as_user fusermount3 -u \"$1/mnt\"; wait $host; echo ended $?");
        Assert.Equal((0, "ready\nended 0\n"), (exitCode, output));
    }

    [SkippableFact]
    public void TakesItsOwnStaleMountOver()
    {
        (int exitCode, string output) = Run(
            "",
            "kill -9 $host; wait $host 2>/dev/null || true; start \"$1\" ''; "
                + "use \"$1\"; kill $host; wait $host; echo ended $?");
        Assert.Equal((0, "ready\nready\nsame\nended 0\n"), (exitCode, output));
    }

    [SkippableFact]
    public void RootCannotTakeItForStale()
    {
        (int exitCode, string output) = Run(
            "",
            "\"$2/Qcow2Fuse.Fuse.TestHost\" \"$1/mnt\" 4096 || echo refused $?; use \"$1\"; kill $host; wait $host");
        Assert.Equal(0, exitCode);
        Assert.StartsWith("ready\nAlreadyMounted: ", output, StringComparison.Ordinal);
        Assert.EndsWith("refused 32\nsame\n", output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void AllowOtherNamesTheFileThatForbidsIt()
    {
        (_, string output) = Run(",allow_other", "wait $host || echo ended $?; cat \"$1/out\"");
        Skip.If(output.StartsWith("ready", StringComparison.Ordinal), "/etc/fuse.conf has user_allow_other");
        Assert.StartsWith("AllowOtherRefused: ", output, StringComparison.Ordinal);
        Assert.Contains("ended 32", output, StringComparison.Ordinal);
        Assert.Contains("/etc/fuse.conf", output, StringComparison.Ordinal);
    }

    private static (int ExitCode, string Output) Run(string words, string action)
    {
        HostProcess.Require();
        Skip.IfNot(Environment.UserName == "root", "needs root for a mount namespace");
        string runtime = Path.GetDirectoryName(typeof(object).Assembly.Location)!;
        Skip.If(
            Shell.Run("setpriv --reuid=65534 --clear-groups test -r \"$1/libcoreclr.so\"", runtime).ExitCode != 0,
            $"other users cannot read {runtime}");

        DirectoryInfo scratch = Directory.CreateTempSubdirectory("qcow2fuse-user-");
        try
        {
            return Shell.Run(
                "exec unshare -m --propagation private sh -c \"$1\" sh \"$2\" \"$3\" \"$4\" \"$5\"",
                Script,
                scratch.FullName,
                AppContext.BaseDirectory.TrimEnd('/'),
                words,
                action);
        }
        finally
        {
            scratch.Delete(recursive: true);
        }
    }
}
