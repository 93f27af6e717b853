// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Security.Cryptography;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>The raw file behaves as a block device of the image's size does, for the tools people use.</summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed class RawFileTests : MountTest
{
    private const int Mebibyte = 1 << 20;

    [SkippableFact]
    public void Names_follow_the_image()
    {
        foreach ((string image, string raw) in ((string, string)[])
            [("disk.qcow2", "disk.raw"), ("web.img", "web.raw"), ("plain", "plain.raw"), ("a.b.qcow2", "a.b.raw")])
        {
            string mountPoint = NewMountPoint();
            Run(NewImage(name: image), mountPoint).ShouldSucceed();
            Assert.Equal([raw], Directory.GetFileSystemEntries(mountPoint).Select(Path.GetFileName));
            Unmount(mountPoint);
        }
    }

    [SkippableFact]
    public void The_attributes_are_those_of_a_sparse_file()
    {
        string image = NewImage();
        QemuTools.Io(image, "write -P 1 0 3M");
        string raw = Mount(image);

        Assert.Equal("67108864 600 1 0 0", Tool("stat", "-c", "%s %a %h %u %g", raw).Trim());
        string[] sizes = Tool("stat", "-c", "%b %o", raw).Trim().Split(' ');
        Assert.InRange(Number(sizes[0]) * 512, 3 * Mebibyte, 5 * Mebibyte);
        Assert.InRange(Number(sizes[1]), 4096, Mebibyte);
        long free = Number(Tool("df", "--output=size", "-B1", Path.GetDirectoryName(raw)!).Split('\n')[1].Trim());
        Assert.InRange(free, 64 * Mebibyte, long.MaxValue);
    }

    [SkippableFact]
    public void Times_change_with_writes_only()
    {
        string image = NewImage();
        File.SetLastWriteTimeUtc(image, new DateTime(2020, 2, 3, 4, 5, 6, DateTimeKind.Utc));
        string raw = Mount(image);
        Assert.Equal(File.GetLastWriteTimeUtc(image), File.GetLastWriteTimeUtc(raw));
        Tool("dd", $"if={raw}", "of=/dev/null", "bs=1M", "status=none");
        Assert.Equal(2020, File.GetLastWriteTimeUtc(raw).Year);

        Tool("dd", "if=/dev/zero", $"of={raw}", "bs=4k", "count=1", "conv=notrunc,fsync", "status=none");
        Assert.InRange(File.GetLastWriteTimeUtc(raw), DateTime.UtcNow.AddMinutes(-5), DateTime.UtcNow.AddMinutes(5));
    }

    [SkippableTheory]
    [InlineData("dd if=$1 of=$2 bs=64k status=none")]
    [InlineData("dd if=$1 of=$2 bs=64k oflag=direct status=none")]
    [InlineData("cp $1 $2")]
    [InlineData("cat $1 > $2")]
    public void Writing_over_the_file_keeps_its_size(string command)
    {
        string image = NewImage();
        string raw = Mount(image);
        string source = PathOf("source");
        File.WriteAllBytes(source, Stamp.Bytes(0, 5 * Mebibyte, 9));
        QemuTools.RequireTool("sh");

        Tool("sh", "-ec", command, "sh", source, raw);

        Assert.Equal(64 * Mebibyte, new FileInfo(raw).Length);
        Unmount(Path.GetDirectoryName(raw)!);
        QemuTools.ShouldPassCheck(image);
        byte[] disk = QemuTools.ConvertToRaw(image);
        Assert.Equal(Stamp.Bytes(0, 5 * Mebibyte, 9), disk[..(5 * Mebibyte)]);
        Assert.False(disk.AsSpan(5 * Mebibyte).ContainsAnyExcept((byte)0));
    }

    [SkippableFact]
    public void The_size_cannot_be_changed()
    {
        string raw = Mount(NewImage());
        Tool("truncate", "-s", "64M", raw);
        foreach (string size in (string[])["0", "63M", "65M"])
        {
            ProcessResult result = TryTool("truncate", "-s", size, raw);
            Assert.NotEqual(0, result.ExitCode);
            Assert.Contains("Operation not permitted", result.Error, StringComparison.Ordinal);
        }

        Assert.Equal(64 * Mebibyte, new FileInfo(raw).Length);
    }

    [SkippableFact]
    public void The_size_can_be_changed_where_the_user_allows_it()
    {
        string image = NewImage();
        string raw = Mount(image, NewMountPoint(), "-o", "resize");
        Tool(
            "dd", "if=/dev/urandom", $"of={raw}", "bs=1M", "seek=60", "conv=notrunc", "status=none", "count=4");
        Tool("truncate", "-s", "61M", raw);
        Tool("truncate", "-s", "1G", raw);
        Assert.Equal(1L << 30, new FileInfo(raw).Length);
        Tool("fallocate", "-o", "1G", "-l", "1M", raw);
        Assert.Equal((1L << 30) + (1 << 20), new FileInfo(raw).Length);
        Assert.Contains(
            "Invalid argument", TryTool("truncate", "-s", "1000", raw).Error, StringComparison.Ordinal);
        Unmount(Path.GetDirectoryName(raw)!);
        QemuTools.ShouldPassCheck(image);
        Assert.Contains("\"virtual-size\": 1074790400", QemuTools.Img("info", "--output=json", image),
            StringComparison.Ordinal);

        // What lay beyond 61 MiB is gone, what lay before is not.
        Tool("qemu-io", "-r", "-c", "read -P 0 61M 3M", image);
        Assert.Contains("Pattern verification failed",
            TryTool("qemu-io", "-r", "-c", "read -P 0 60M 1M", image).Output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void The_end_is_the_end()
    {
        string raw = Mount(NewImage());
        Assert.Equal("", Tool("dd", $"if={raw}", "bs=1M", "skip=64", "status=none"));
        ProcessResult result = TryTool(
            "dd", "if=/dev/zero", $"of={raw}", "bs=1M", "seek=64", "count=1", "conv=notrunc", "status=none");
        Assert.NotEqual(0, result.ExitCode);
        Assert.Matches("No space left on device|File too large", result.Error);
        Assert.Equal(64 * Mebibyte, new FileInfo(raw).Length);
    }

    [SkippableFact]
    public void Holes_and_data_are_where_the_image_has_them()
    {
        string image = NewImage();
        QemuTools.Io(image, "write -P 1 1M 64k", "write -P 2 10M 1M", "write -P 3 63M 1M");
        string raw = Mount(image);

        string copy = PathOf("copy");
        Tool("cp", "--sparse=auto", raw, copy);
        Assert.InRange(Number(Tool("stat", "-c", "%b", copy).Trim()) * 512, 2 * Mebibyte, 4 * Mebibyte);
        Assert.Equal(HashOf(raw), HashOf(copy));
        string map = QemuTools.Img("map", "-f", "raw", raw);
        Assert.Contains("0x100000        0x10000", map, StringComparison.Ordinal);
        Assert.Contains("0xa00000        0x100000", map, StringComparison.Ordinal);
        Assert.Contains("0x3f00000       0x100000", map, StringComparison.Ordinal);
    }

    /// <summary>
    /// The kernel keeps its pages of a range that could not be zeroed, and part of it may have been.
    /// </summary>
    [SkippableFact]
    public void Of_a_range_that_was_zeroed_in_part_everybody_sees_the_same()
    {
        const int Zeroed = 1 << 20;
        QemuTools.RequireTool("qemu-io");
        string mountPoint = NewMountPoint();
        string small = PathOf("small");
        Directory.CreateDirectory(small);
        Tool("mount", "-t", "tmpfs", "-o", "size=6M", "none", small);
        try
        {
            string image = Path.Combine(small, "disk.qcow2");
            File.WriteAllBytes(Path.Combine(small, "base.raw"), Stamp.Bytes(0, 2 * Zeroed, 1));
            QemuTools.Img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", image);
            QemuTools.Io(image, "write -P 9 0 1M");
            string raw = Mount(image, mountPoint, "-o", "nopartitions,commit=0");
            Assert.Equal(9, File.ReadAllBytes(raw)[Zeroed / 2]);
            FillUp(Path.Combine(small, "rest"));

            // The first clusters become zero by their entries; for a part of the next one there is no space.
            Assert.NotEqual(0, TryTool("fallocate", "-z", "-o", "0", "-l", $"{Zeroed + 5000}", raw).ExitCode);
            string direct = PathOf("direct");
            Tool("dd", "if=" + raw, "of=" + direct, "bs=64K", $"count={Zeroed >> 16}", "iflag=direct", "status=none");
            byte[] there = File.ReadAllBytes(direct);
            Assert.False(there.AsSpan().ContainsAnyExcept((byte)0), "nothing was zeroed");
            Eventually.Holds(() => there.AsSpan().SequenceEqual(File.ReadAllBytes(raw).AsSpan(0, Zeroed)));
            File.Delete(Path.Combine(small, "rest"));
            Unmount(mountPoint);
        }
        finally
        {
            TryTool("umount", "-l", mountPoint);
            Umount(small);
        }

        static void FillUp(string path)
        {
            using FileStream file = File.Create(path);
            byte[] page = new byte[4096];
            Action fill = () =>
            {
                while (true)
                {
                    file.Write(page);
                    file.Flush();
                }
            };
            Assert.Throws<IOException>(fill);
        }
    }

    [SkippableFact]
    public void A_punched_hole_is_zero_and_gives_space_back()
    {
        string image = NewImage();
        QemuTools.Io(image, "write -P 1 0 32M");
        string raw = Mount(image);
        long before = Number(Tool("stat", "-c", "%b", image).Trim());

        // Neither end lies on a cluster.
        Tool("fallocate", "-p", "-o", "1000", "-l", "30000000", raw);
        Tool("fallocate", "-z", "-o", "31000000", "-l", "77777", raw);
        Tool("fallocate", "-o", "0", "-l", "1000000", raw);
        Unmount(Path.GetDirectoryName(raw)!);

        byte[] disk = QemuTools.ConvertToRaw(image);
        byte[] expected = new byte[64 * Mebibyte];
        expected.AsSpan(0, 32 * Mebibyte).Fill(1);
        expected.AsSpan(1000, 30000000).Clear();
        expected.AsSpan(31000000, 77777).Clear();
        Assert.True(expected.AsSpan().SequenceEqual(disk), "a wrong range is zero");
        QemuTools.ShouldPassCheck(image);
        Assert.InRange(Number(Tool("stat", "-c", "%b", image).Trim()), 0, before / 4);
    }

    [SkippableFact]
    public void With_discard_ignored_a_punched_hole_keeps_its_space()
    {
        string image = NewImage();
        QemuTools.Io(image, "write -P 1 0 32M");
        string raw = Mount(image, NewMountPoint(), "-o", "discard=ignore");
        Tool("fallocate", "-p", "-o", "0", "-l", "33554432", raw);
        Unmount(Path.GetDirectoryName(raw)!);
        Assert.InRange(Number(Tool("stat", "-c", "%b", image).Trim()) * 512, 32 * Mebibyte, 34 * Mebibyte);
        Assert.False(QemuTools.ConvertToRaw(image).AsSpan().ContainsAnyExcept((byte)0), "the hole is not zero");
    }

    [SkippableFact]
    public void Nothing_else_can_be_made_removed_or_moved()
    {
        string mountPoint = NewMountPoint();
        string raw = Mount(NewImage(), mountPoint);
        Assert.NotEqual(0, TryTool("touch", Path.Combine(mountPoint, "new")).ExitCode);
        Assert.NotEqual(0, TryTool("rm", "-f", raw).ExitCode);
        Assert.NotEqual(0, TryTool("mv", raw, raw + "2").ExitCode);
        Assert.NotEqual(0, TryTool("mkdir", Path.Combine(mountPoint, "new")).ExitCode);
        Assert.Equal([raw], Directory.GetFileSystemEntries(mountPoint));
    }

    [SkippableFact]
    public void A_read_only_mount_changes_no_byte()
    {
        string image = NewImage();
        QemuTools.Io(image, "write -P 5 1M 1M");
        string before = HashOf(image);
        string raw = Mount(image, NewMountPoint(), "-r");

        Assert.Equal("400", Tool("stat", "-c", "%a", raw).Trim());
        ProcessResult result = TryTool(
            "dd", "if=/dev/zero", $"of={raw}", "bs=4k", "count=1", "conv=notrunc", "status=none");
        Assert.Contains("Read-only file system", result.Error, StringComparison.Ordinal);
        Assert.NotEqual(0, TryTool("fallocate", "-p", "-o", "0", "-l", "4096", raw).ExitCode);
        HashOf(raw);
        Unmount(Path.GetDirectoryName(raw)!);
        Assert.Equal(before, HashOf(image));
    }

    [SkippableFact]
    public void A_writable_mount_without_a_write_changes_no_byte()
    {
        string image = NewImage();
        QemuTools.Io(image, "write -P 5 1M 1M");
        string before = HashOf(image);
        string raw = Mount(image);
        HashOf(raw);
        Tool("sync", raw);
        Unmount(Path.GetDirectoryName(raw)!);
        Assert.Equal(before, HashOf(image));
    }

    [SkippableTheory]
    [InlineData("writeback")]
    [InlineData("none")]
    [InlineData("writethrough")]
    [InlineData("directsync")]
    public void Every_cache_mode_reads_what_was_written(string cache)
    {
        string image = NewImage();
        string raw = Mount(image, NewMountPoint(), "-o", $"cache={cache}");
        string source = PathOf("source");
        File.WriteAllBytes(source, Stamp.Bytes(0, 3 * Mebibyte + 1234, 4));
        Tool("dd", $"if={source}", $"of={raw}", "bs=10000", "conv=notrunc,fsync", "status=none");
        Tool("cmp", "-n", (3 * Mebibyte + 1234).ToString(CultureInfo.InvariantCulture), source, raw);
        Unmount(Path.GetDirectoryName(raw)!);
        QemuTools.ShouldPassCheck(image);
        Assert.Equal(File.ReadAllBytes(source), QemuTools.ConvertToRaw(image)[..(3 * Mebibyte + 1234)]);
    }

    [SkippableFact]
    public void Owner_and_mode_are_as_asked()
    {
        string raw = Mount(NewImage(), NewMountPoint(), "-o", "uid=1234,gid=2345,umask=027,allow_other");
        Assert.Equal("640 1234 2345", Tool("stat", "-c", "%a %u %g", raw).Trim());
    }

    private static long Number(string text) => long.Parse(text, CultureInfo.InvariantCulture);

    private static string HashOf(string path)
    {
        using FileStream file = File.OpenRead(path);
        return Convert.ToHexString(SHA256.HashData(file));
    }
}
