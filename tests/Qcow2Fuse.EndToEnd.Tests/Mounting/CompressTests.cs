// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>Mounts with <c>-o compress</c>: what the tools people use make of them, compared with qemu-img.</summary>
public sealed partial class CompressTests : MountTest
{
    private const int Mebibyte = 1 << 20;
    private const int DiskBytes = 32 * Mebibyte;
    private const int ClusterSize = 65536;
    private const double LargerAtMost = 1.02;

    [SkippableTheory]
    [InlineData("none", "zlib", "dd if=$1 of=$2 bs=4k conv=notrunc status=none")]
    [InlineData("none", "zlib", "dd if=$1 of=$2 bs=1000 conv=notrunc status=none")]
    [InlineData("none", "zstd", "dd if=$1 of=$2 bs=1M conv=notrunc,fsync status=none")]
    [InlineData("writeback", "zstd", "dd if=$1 of=$2 bs=1000 conv=notrunc,fsync status=none")]
    [InlineData("writeback", "zlib", "dd if=$1 of=$2 bs=1M oflag=direct conv=notrunc status=none")]
    [InlineData("writeback", "zlib", "cp $1 $2")]
    [InlineData("none", "zstd", "cp $1 $2")]
    [InlineData("none", "zlib", "qemu-img convert -n -t none -f raw -O raw $1 $2")]
    [InlineData("none", "zstd", "qemu-img convert -n -t writeback -f raw -O raw $1 $2")]
    [InlineData("writeback", "zlib", "qemu-img convert -n -t writeback -W -f raw -O raw $1 $2")]
    [Trait(Speed.Name, Speed.Slow)]
    public void A_copy_into_the_mount_is_as_small_as_a_compressed_conversion(
        string cache, string compression, string command)
    {
        string source = NewSource();
        string converted = PathOf("converted.qcow2");
        QemuTools.Img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=" + compression,
            source, converted);
        string image = NewImage("32M", "compression_type=" + compression);
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint, "-o", $"compress={compression},cache={cache}");

        Tool("sh", "-ec", command, "sh", source, raw);
        Tool("cmp", source, raw);
        Unmount(mountPoint);

        QemuTools.ShouldPassCheck(image);
        QemuTools.Img("compare", "-q", "-f", "raw", "-F", "qcow2", source, image);
        Assert.InRange(new FileInfo(image).Length, 1, (long)(new FileInfo(converted).Length * LargerAtMost));
    }

    [SkippableFact]
    public void Data_is_there_after_an_fsync_and_a_killed_daemon()
    {
        string source = NewSource();
        string image = NewImage("32M", "compat=1.1");
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint, "-o", "compress");
        Tool("dd", $"if={source}", $"of={raw}", "bs=1000", "count=10000", "conv=notrunc,fsync", "status=none");
        foreach (int daemon in DaemonsOf(mountPoint))
            Signal(daemon, "KILL");
        Umount(mountPoint);

        QemuTools.ShouldPassCheck(image, allowLeaks: true);
        byte[] expected = File.ReadAllBytes(source)[..10_000_000];
        Assert.Equal(expected, QemuTools.ConvertToRaw(image)[..10_000_000]);
    }

    [SkippableFact]
    public void The_image_file_gets_whole_finished_clusters_and_no_cluster_twice()
    {
        QemuTools.RequireTool("strace");
        string image = NewImage("32M", "compat=1.1");
        string mountPoint = NewMountPoint();
        string trace = PathOf("trace");
        File.WriteAllBytes(PathOf("soft"), Stamp.Bytes(0, 8 * Mebibyte, Stamp.Compressible | 1));

        // Without a flush of the daemon's own, which comes in between where the machine is slow.
        const string options = "compress,cache=none,commit=0";
        using Process strace = StartTraced(trace, "mount", "-f", "-o", options, image, mountPoint);
        string raw = RawFileOf(image, mountPoint);
        WaitUntil(() => File.Exists(raw) || strace.HasExited, "the image is not mounted");
        Tool("dd", $"if={PathOf("soft")}", $"of={raw}", "bs=1000", "conv=notrunc", "status=none");
        (long Offset, long Length)[] before = WritesIn(trace, image);
        Tool("dd", $"if={PathOf("soft")}", $"of={raw}", "bs=4k", "count=1", "conv=notrunc,fsync", "status=none");
        (long Offset, long Length)[] after = WritesIn(trace, image)[before.Length..];
        Unmount(mountPoint);
        Assert.True(strace.WaitForExit(Eventually.Patience));

        Assert.True(before.Length >= 10, $"only {before.Length} writes");
        Assert.All(before, static write => Assert.Equal((0, ClusterSize), (write.Offset % ClusterSize, write.Length)));
        Assert.Equal(before.Length, before.Select(static write => write.Offset).Distinct().Count());

        // The unfinished cluster as far as it goes, to the next block of the disk, and then the tables.
        (long offset, long length) = after.Last(write => write.Offset >= before[^1].Offset + ClusterSize);
        Assert.Equal(0, offset % ClusterSize);
        Assert.InRange(length, 512, ClusterSize - 1);
        Assert.DoesNotContain(after, write => before.Any(earlier => earlier.Offset == write.Offset));
        QemuTools.ShouldPassCheck(image);
    }

    [SkippableTheory]
    [InlineData("zlib", "zstd")]
    [InlineData("zstd", "zlib")]
    public void Another_compression_than_the_images_is_refused_with_a_hint(string has, string wanted)
    {
        string image = NewImage("32M", "compression_type=" + has);
        string error = Run("mount", "-o", $"compress={wanted}", image, NewMountPoint()).Error;
        Assert.Contains($"{image}: the image compresses with {has}, not {wanted}", error, StringComparison.Ordinal);
        Assert.Contains($"qcow2fuse create -o compression_type={wanted}", error, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void A_raw_image_is_refused()
    {
        string image = PathOf("disk.img");
        File.WriteAllBytes(image, new byte[Mebibyte]);
        ProcessResult result = Run("mount", "--format", "raw", "--compress", "on", image, NewMountPoint());
        Assert.NotEqual(0, result.ExitCode);
        Assert.Contains("a raw image has no compression", result.Error, StringComparison.Ordinal);
    }

    /// <summary>Starts the program below strace, which writes what it writes to a file.</summary>
    private static Process StartTraced(string trace, params string[] arguments)
    {
        ProcessStartInfo start = new(ProcessRunner.Find("strace")!);
        string[] all = ["-f", "-y", "-s", "0", "-e", "trace=pwrite64", "-o", trace, FindProgram()!, .. arguments];
        foreach (string argument in all)
            start.ArgumentList.Add(argument);
        return Process.Start(start)!;
    }

    /// <summary>A disk with text, short patterns, noise and holes.</summary>
    private string NewSource()
    {
        string path = PathOf("source");
        byte[] disk = new byte[DiskBytes];
        string[] words = ["cluster", "table", "offset", "the", "of", "is", "refcount", "entry", "and", "a", "byte"];
        SeededRandom random = new(5);
        for (int at = 0; at < DiskBytes; at += Mebibyte / 2)
        {
            Span<byte> part = disk.AsSpan(at, Mebibyte / 2);
            switch (at / (Mebibyte / 2) % 5)
            {
                case 0:
                    Stamp.Fill(part, at, Stamp.Compressible | 3);
                    break;
                case 1:
                    Stamp.Fill(part, at, 4);
                    break;
                case 2 or 3:
                    for (int i = 0; i < part.Length;)
                    {
                        foreach (char letter in random.Pick(words) + (random.Chance(20) ? ".\n" : " "))
                        {
                            if (i < part.Length)
                                part[i++] = (byte)letter;
                        }
                    }

                    break;
                default:
                    break;
            }
        }

        File.WriteAllBytes(path, disk);
        return path;
    }

    private static (long Offset, long Length)[] WritesIn(string trace, string image)
    {
        List<(long Offset, long Length)> writes = [];
        foreach (string line in File.ReadLines(trace))
        {
            Match match = PositionedWrite().Match(line);
            if (match.Success && line.Contains($"<{image}>", StringComparison.Ordinal))
                writes.Add((Number(match.Groups[2].Value), Number(match.Groups[1].Value)));
        }

        return [.. writes];
    }

    private static long Number(string text) => long.Parse(text, CultureInfo.InvariantCulture);

    [GeneratedRegex(@"pwrite64\(\d+<[^>]*>, .*, (\d+), (\d+)(?:\)| <unfinished)")]
    private static partial Regex PositionedWrite();
}
