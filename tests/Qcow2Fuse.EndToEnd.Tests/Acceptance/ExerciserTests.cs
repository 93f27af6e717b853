// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>
/// Random reads, writes, mapped memory, holes and flushes through the whole disk and its partitions, by a process of
/// its own that knows what it wrote. QCOW2FUSE_EXERCISE_SECONDS makes each run longer, QCOW2FUSE_EXERCISE_SEED another
/// one.
/// </summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class ExerciserTests(ITestOutputHelper log) : MountTest
{
    private const double SecondsDefault = 2;
    private const long PartitionStart = 2048 * 512;

    [SkippableTheory]
    [InlineData("compat=1.1", "")]
    [InlineData("extended_l2=on", "cache=none")]
    [InlineData("cluster_size=4k", "cache=writethrough")]
    [InlineData("compat=0.10", "discard=ignore")]
    [InlineData("compression_type=zstd", "compress")]
    [InlineData("compat=1.1", "transport=uring")]
    [InlineData("extended_l2=on", "transport=uring,cache=none")]
    public void What_was_written_is_read_whichever_way(string imageOptions, string mountOptions)
    {
        RequireMounting();
        string image = NewImage("48M", imageOptions);
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        string script = "printf 'label: dos\\nstart=2048, size=40960\\nstart=45056\\n' | "
            + "PATH=$PATH:/usr/sbin:/sbin sfdisk -q --no-reread --no-tell-kernel \"$1\"";
        Tool("sh", "-ec", script, "sh", raw);
        Unmount(mountPoint);
        if (mountOptions.Contains("uring", StringComparison.Ordinal))
            MountOverUring(image, mountPoint, mountOptions);
        else
            Mount(image, mountPoint, mountOptions.Length == 0 ? [] : ["-o", mountOptions]);

        string seconds = Environment.GetEnvironmentVariable("QCOW2FUSE_EXERCISE_SECONDS")
            ?? SecondsDefault.ToString(CultureInfo.InvariantCulture);
        string seed = Environment.GetEnvironmentVariable("QCOW2FUSE_EXERCISE_SEED")
            ?? Environment.TickCount64.ToString(CultureInfo.InvariantCulture);
        ProcessResult result = ProcessRunner.Run(
            Path.Combine(AppContext.BaseDirectory, "Qcow2Fuse.Exerciser"),
            [seed, seconds, raw, $"{raw[..^4]}.p1.raw@{PartitionStart}", $"{raw[..^4]}.p2.raw@{45056 * 512}"],
            timeout: TimeSpan.FromSeconds(120 + (3 * double.Parse(seconds, CultureInfo.InvariantCulture))));
        log.WriteLine(result.Output);
        Assert.True(result.ExitCode == 0, $"{imageOptions} {mountOptions}\n{result.Output}{result.Error}");

        string hash = Tool("sha256sum", raw).Split(' ')[0];
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
        byte[] disk = QemuTools.ConvertToRaw(image);
        Assert.Equal(hash, Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(disk)));
    }
}
