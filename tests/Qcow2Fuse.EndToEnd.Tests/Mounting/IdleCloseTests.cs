// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>Images of a directory that cannot be read, or cannot be closed when they are idle.</summary>
public sealed class IdleCloseTests : MountTest
{
    [SkippableTheory]
    [Trait(Speed.Name, Speed.Slow)]
    [InlineData("ENOSPC")]
    [InlineData("EIO")]
    public void What_cannot_be_made_durable_is_kept_and_written_later(string error)
    {
        QemuTools.RequireTool("strace");
        Directory.CreateDirectory(PathOf("images"));
        string image = NewImage(name: "images/disk.qcow2");
        string mountPoint = NewMountPoint();

        // A flush by the commit interval would fail too, and the unmount tells of that.
        Run("mount", "-o", "commit=0", PathOf("images"), mountPoint).ShouldSucceed();
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        string raw = Path.Combine(mountPoint, "disk.raw");
        byte[] written = Stamp.Bytes(0, 1 << 20, 9);
        using (FileStream file = File.OpenWrite(raw))
            file.Write(written);

        // Nobody has it open, and nobody has asked for it to be durable.
        string trace = PathOf("trace");
        using (Process strace = Process.Start(
            "strace",
            ["-f", "-qq", "-o", trace, "-p", daemon.ToString(CultureInfo.InvariantCulture), "-e",
                "trace=pwrite64,pwritev,fdatasync", "-e", "inject=pwrite64,pwritev,fdatasync:error=" + error]))
        {
            // The second attempt comes after another five seconds.
            WaitUntil(() => File.Exists(trace) && Failures(trace) > 1, "the idle image is not written out again");
            Signal(strace.Id, "TERM");
            Assert.True(strace.WaitForExit(Eventually.Patience));
        }

        using (FileStream file = File.OpenRead(raw))
        {
            byte[] read = new byte[written.Length];
            file.ReadExactly(read);
            Assert.Equal(written, read);
        }

        Run("umount", mountPoint).ShouldSucceed();
        QemuTools.ShouldPassCheck(image);
        Assert.Equal(written, QemuTools.ConvertToRaw(image)[..written.Length]);
    }

    [SkippableFact]
    public void A_directory_that_cannot_be_read_is_an_error()
    {
        RequireMounting();
        QemuTools.RequireTool("fusermount3");
        QemuTools.RequireTool("setpriv");
        QemuTools.Require(FindProgram() is not null, "out/qcow2fuse is not built");
        File.SetUnixFileMode(WorkDirectory, (UnixFileMode)0x1ED);
        Directory.CreateDirectory(PathOf("images"), UnixFileMode.UserRead | UnixFileMode.UserWrite);
        string mountPoint = NewMountPoint();
        string program = PathOf("program");
        File.Copy(FindProgram()!, program);
        File.SetUnixFileMode(program, (UnixFileMode)0x1ED);
        Tool("chown", "65534", mountPoint);
        ProcessResult result = TryTool(
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "mount", PathOf("images"),
            mountPoint);
        Assert.Equal(32, result.ExitCode);
        OneLine.Error(result, $"{PathOf("images")}: cannot be opened: Permission denied");
        Assert.False(IsMounted(mountPoint));
    }

    private static int Failures(string trace) =>
        File.ReadLines(trace).Count(static line => line.Contains("(INJECTED)", StringComparison.Ordinal));
}
