// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Restart;

/// <summary>The daemon is killed, and the next one goes on with its mount.</summary>
public sealed class CrashedDaemonTests : RestartTest
{
    [SkippableFact]
    public void What_was_flushed_goes_on_as_if_nothing_had_been()
    {
        Begin();
        using (OpenedFile file = new(Raw))
        {
            file.Write(0, 1);
            file.Sync();
            Crash();
            file.Write(1 << 20, 2);
            file.Sync();
            Crash();
            file.ShouldRead(0, 1);
            file.ShouldRead(1 << 20, 2);
            file.ShouldRead(2 << 20, 0);
        }

        Assert.DoesNotContain("EIO", Manager.Log);
        Stop();
        QemuTools.Img("convert", "-O", "raw", Image, PathOf("flat"));
        using OpenedFile flat = new(PathOf("flat"));
        flat.ShouldRead(0, 1);
        flat.ShouldRead(1 << 20, 2);
    }

    [SkippableFact]
    public void A_handle_that_may_have_lost_a_write_fails_until_it_is_closed()
    {
        Begin();
        using (OpenedFile old = new(Raw))
        {
            old.Write(0, 1);
            old.Sync();
            old.Write(1 << 20, 2);
            Crash();
            Manager.ShouldLog("answer with EIO");
            old.ShouldFail(Errno.EIO);

            using (OpenedFile fresh = new(Raw))
            {
                fresh.ShouldRead(0, 1);
                fresh.Write(2 << 20, 3);
                fresh.Sync();
                fresh.ShouldRead(2 << 20, 3);
                HandOver();
                old.ShouldFail(Errno.EIO);
                Crash();
                old.ShouldFail(Errno.EIO);
                fresh.ShouldRead(2 << 20, 3);
                fresh.Sync();
            }
        }

        using (OpenedFile fresh = new(Raw))
        {
            fresh.ShouldRead(0, 1);
            fresh.ShouldRead(2 << 20, 3);
        }

        Stop();
    }

    [SkippableFact]
    public void Nobody_else_gets_at_the_image_meanwhile()
    {
        Begin();
        using OpenedFile file = new(Raw);
        ProcessResult Write() => TryTool("qemu-io", "-f", "qcow2", "-c", "write 0 64k", Image);
        Assert.Equal(137, Manager.End("KILL"));
        Assert.Contains("lock", Write().Error, StringComparison.Ordinal);
        Start();
        Assert.Contains("lock", Write().Error, StringComparison.Ordinal);
        HandOver();
        Assert.Contains("lock", Write().Error, StringComparison.Ordinal);
        file.ShouldRead(0, 0);
        file.Dispose();
        Stop();
        Assert.Equal(0, Write().ExitCode);
    }

    /// <summary>
    /// The image lies on another mount, whose daemon is stopped: a request to the inner one waits in a worker, and is
    /// there when that daemon is killed.
    /// </summary>
    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_request_in_work_is_sent_again(bool writes)
    {
        Skip.If(IsBefore(6, 9), "the kernel does not send requests again (Linux 6.9)");
        string outerPoint = NewMountPoint("outer");
        string inner = NewImage("16M", name: "inner.qcow2");
        using (Process fill = Launch("qemu-io", "-f", "qcow2", "-c", "write -P 5 1M 1M", inner))
            fill.WaitForExit();
        string image = Mount(NewImage(name: "disk.qcow2"), outerPoint);
        Tool("dd", "if=" + inner, "of=" + image, "conv=notrunc", "status=none");
        Tool("sync", image);
        int outer = Assert.Single(DaemonsOf(outerPoint));
        Begin(image, ("QCOW2FUSE_CACHE", "none"), ("QCOW2FUSE_FORMAT", "qcow2"));
        using Process request = writes
            ? Launch("dd", "if=/dev/zero", "of=" + Raw, "bs=4k", "count=1", "seek=256", "oflag=direct", "conv=notrunc")
            : Launch("true");
        request.WaitForExit();
        string output = PathOf("read");
        StopProcess(outer);
        using Process second = writes
            ? Launch("dd", "if=/dev/zero", "of=" + Raw, "bs=4k", "count=1", "seek=512", "oflag=direct", "conv=notrunc")
            : Launch("dd", "if=" + Raw, "of=" + output, "bs=4k", "count=1", "skip=300", "iflag=direct");
        try
        {
            // It has the file open, and everybody sleeps: the request is on its way and waits for the outer mount.
            WaitUntil(() => second.HasExited || HasOpen(second.Id, Raw), $"nobody opens {Raw}");
            WaitUntil(
                () => second.HasExited
                    || (Eventually.IsAsleep(second.Id) && Eventually.IsAsleep(Manager.ProcessId)),
                "the request does not come to wait");
            Assert.False(second.HasExited, "the request did not wait for the outer mount");
            Signal(Manager.ProcessId, "KILL");
        }
        finally
        {
            Signal(outer, "CONT");
        }

        Assert.Equal(137, Manager.WaitForEnd());
        Start();
        Assert.True(second.WaitForExit(Eventually.Patience), "the request never comes back");
        string error = second.StandardError.ReadToEnd();
        if (writes)
        {
            Assert.Contains("Input/output error", error, StringComparison.Ordinal);
        }
        else
        {
            Assert.Equal(0, second.ExitCode);
            using OpenedFile read = new(output);
            read.ShouldRead(0, 5);
        }

        Stop(check: false);
        Unmount(outerPoint);
    }

    private static bool IsBefore(int major, int minor)
    {
        Version kernel = Environment.OSVersion.Version;
        return kernel < new Version(major, minor);
    }

    private static bool HasOpen(int process, string path) =>
        OpenDescriptors.Of($"/proc/{process}").Any(descriptor => descriptor.Target == path);
}
