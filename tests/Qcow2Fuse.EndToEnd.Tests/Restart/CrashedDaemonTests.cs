// SPDX-License-Identifier: MIT
using Microsoft.Win32.SafeHandles;
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
        using (SafeFileHandle file = Open())
        {
            RandomAccess.Write(file, Bytes(1), 0);
            RandomAccess.FlushToDisk(file);
            Crash();
            RandomAccess.Write(file, Bytes(2), 1 << 20);
            RandomAccess.FlushToDisk(file);
            Crash();
            Assert.Equal(Bytes(1), Read(file, 0));
            Assert.Equal(Bytes(2), Read(file, 1 << 20));
            Assert.Equal(Bytes(0), Read(file, 2 << 20));
        }

        Assert.DoesNotContain("EIO", Manager.Log);
        Stop();
        using TempDirectory directory = new();
        QemuTools.Img("convert", "-O", "raw", Image, directory.File("flat"));
        using SafeFileHandle flat = File.OpenHandle(directory.File("flat"));
        Assert.Equal(Bytes(1), Read(flat, 0));
        Assert.Equal(Bytes(2), Read(flat, 1 << 20));
    }

    [SkippableFact]
    public void A_handle_that_may_have_lost_a_write_fails_until_it_is_closed()
    {
        Begin();
        using (SafeFileHandle old = Open())
        {
            RandomAccess.Write(old, Bytes(1), 0);
            RandomAccess.FlushToDisk(old);
            RandomAccess.Write(old, Bytes(2), 1 << 20);
            Crash();
            Assert.Contains("answer with EIO", Manager.Log);
            ShouldFail(old);

            using (SafeFileHandle fresh = Open())
            {
                Assert.Equal(Bytes(1), Read(fresh, 0));
                RandomAccess.Write(fresh, Bytes(3), 2 << 20);
                RandomAccess.FlushToDisk(fresh);
                Assert.Equal(Bytes(3), Read(fresh, 2 << 20));
            }

            HandOver();
            ShouldFail(old);
            Crash();
            ShouldFail(old);
        }

        using (SafeFileHandle fresh = Open())
            Assert.Equal(Bytes(3), Read(fresh, 2 << 20));
        Stop();
    }

    private static void ShouldFail(SafeFileHandle file)
    {
        Assert.Throws<IOException>(() => Read(file, 8 << 20));
        Assert.Throws<IOException>(() => RandomAccess.Write(file, Bytes(9), 8 << 20));
        Assert.Throws<IOException>(() => RandomAccess.FlushToDisk(file));
        Assert.Throws<IOException>(() => RandomAccess.SetLength(file, 64 << 20));
    }
}
