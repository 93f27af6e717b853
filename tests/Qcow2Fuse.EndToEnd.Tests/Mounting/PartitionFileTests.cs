// SPDX-License-Identifier: MIT
using System.IO.MemoryMappedFiles;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>Partitions as files: they follow the table, show their range, and agree with the whole disk.</summary>
public sealed class PartitionFileTests : MountTest
{
    private const int Mebibyte = 1 << 20;
    private const string TwoPartitions = "label: gpt\\nstart=2048, size=20480\\nstart=24576, size=2048\\n";

    [SkippableFact]
    public void Partitions_appear_move_and_vanish_with_the_table()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        Assert.Equal(["disk.raw"], Names(mountPoint));

        Partition(raw, TwoPartitions);
        Assert.Equal(["disk.p1.raw", "disk.p2.raw", "disk.raw"], Names(mountPoint));
        Assert.Equal(10 * Mebibyte, new FileInfo(PartitionOf(raw, 1)).Length);
        Assert.Equal(Mebibyte, new FileInfo(PartitionOf(raw, 2)).Length);

        Partition(raw, "label: dos\\nstart=2048, size=4096\\nstart=8192, type=5\\nstart=10240, size=2048\\n");
        Assert.Equal(["disk.p1.raw", "disk.p5.raw", "disk.raw"], Names(mountPoint));
        Assert.Equal(2 * Mebibyte, new FileInfo(PartitionOf(raw, 1)).Length);
        Assert.False(File.Exists(PartitionOf(raw, 2)));

        Tool("dd", "if=/dev/zero", $"of={raw}", "bs=1M", "count=1", "conv=notrunc", "status=none");
        Assert.Equal(["disk.raw"], Names(mountPoint));
        Assert.False(File.Exists(PartitionOf(raw, 1)));
    }

    [SkippableFact]
    public void A_partition_is_its_range_of_the_disk_and_no_more()
    {
        string image = NewImage();
        string raw = Mount(image);
        Partition(raw, TwoPartitions);
        string second = PartitionOf(raw, 2);
        byte[] content = Stamp.Bytes(0, Mebibyte, 5);
        string source = PathOf("source");
        File.WriteAllBytes(source, content);
        Tool("dd", $"if={source}", $"of={second}", "bs=10000", "conv=notrunc,fsync", "status=none");
        ProcessResult result = TryTool(
            "dd", "if=/dev/zero", $"of={second}", "bs=1M", "seek=1", "count=1", "conv=notrunc", "status=none");
        Assert.Matches("No space left on device|File too large", result.Error);
        Assert.NotEqual(0, TryTool("truncate", "-s", "2M", second).ExitCode);
        Tool("fallocate", "-p", "-o", "65536", "-l", "131072", second);
        content.AsSpan(65536, 131072).Clear();
        Assert.Equal(content, File.ReadAllBytes(second));
        Assert.Contains("0x30000", QemuTools.Img("map", "-f", "raw", second), StringComparison.Ordinal);

        Unmount(Path.GetDirectoryName(raw)!);
        QemuTools.ShouldPassCheck(image);
        byte[] disk = QemuTools.ConvertToRaw(image);
        Assert.Equal(content, disk[(12 * Mebibyte)..(13 * Mebibyte)]);
        Assert.False(disk.AsSpan(13 * Mebibyte, 50 * Mebibyte).ContainsAnyExcept((byte)0));
    }

    [SkippableFact]
    public void A_write_through_one_file_is_read_through_the_other()
    {
        string raw = Mount(NewImage());
        Partition(raw, TwoPartitions);
        string first = PartitionOf(raw, 1);
        using FileStream whole = new(raw, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0);
        using FileStream part = new(first, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0);
        for (byte round = 1; round <= 20; round++)
        {
            // The whole disk is in the page cache from the round before.
            Fill(part, 0, 65536, round);
            WaitUntil(() => IsFilled(whole, Mebibyte, 65536, round), $"round {round}: the disk shows old data");
            Fill(whole, Mebibyte + 8192, 4096, (byte)(round + 100));
            Assert.True(IsFilled(part, 8192, 4096, (byte)(round + 100)), $"round {round}: the partition is old");
        }
    }

    [SkippableFact]
    public void What_was_synced_through_a_partition_is_in_the_disk_at_once()
    {
        string raw = Mount(NewImage());
        Partition(raw, TwoPartitions);
        for (byte round = 1; round <= 10; round++)
        {
            using (FileStream part = new(
                PartitionOf(raw, 1), FileMode.Open, FileAccess.Write, FileShare.ReadWrite, bufferSize: 0))
            {
                Fill(part, 0, 65536, round);
                part.Flush(flushToDisk: true);
            }

            using FileStream whole = new(raw, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, bufferSize: 0);
            Assert.True(IsFilled(whole, Mebibyte, 65536, round), $"round {round}: the disk shows old data");
        }
    }

    [SkippableFact]
    public void Mapped_memory_follows_both_ways()
    {
        string raw = Mount(NewImage());
        Partition(raw, TwoPartitions);
        using MemoryMappedFile wholeFile = MemoryMappedFile.CreateFromFile(raw, FileMode.Open);
        using MemoryMappedViewAccessor whole = wholeFile.CreateViewAccessor(Mebibyte, 65536);
        using MemoryMappedFile partFile = MemoryMappedFile.CreateFromFile(PartitionOf(raw, 1), FileMode.Open);
        using MemoryMappedViewAccessor part = partFile.CreateViewAccessor(0, 65536);
        for (byte round = 1; round <= 10; round++)
        {
            byte value = round;
            part.Write(100, value);
            part.Flush();
            WaitUntil(() => whole.ReadByte(100) == value, $"round {value}: the mapped disk is old");
            whole.Write(5000, value);
            whole.Flush();
            WaitUntil(() => part.ReadByte(5000) == value, $"round {value}: the mapped partition is old");
        }
    }

    [SkippableFact]
    public void Parallel_writers_through_all_files_do_not_wait_for_each_other_for_ever()
    {
        string image = NewImage();
        string raw = Mount(image, NewMountPoint(), "-o", "threads=2");
        Partition(raw, TwoPartitions);
        string script = """
            for i in $(seq 40); do
                dd if=/dev/zero of="$1" bs=64k seek=$((16 + i % 8)) count=1 conv=notrunc status=none &
                dd if=/dev/zero of="$2" bs=64k seek=$((i % 8)) count=1 conv=notrunc,fsync status=none &
                dd if="$1" of=/dev/null bs=64k skip=$((16 + i % 8)) count=1 status=none &
            done
            wait
            """;
        Tool("sh", "-ec", script, "sh", raw, PartitionOf(raw, 1));
        Unmount(Path.GetDirectoryName(raw)!);
        QemuTools.ShouldPassCheck(image);
    }

    [SkippableFact]
    public void Only_a_window_is_shown_where_one_is_asked_for()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        Partition(raw, TwoPartitions);
        Unmount(mountPoint);
        QemuTools.Io(image, "write -P 7 12M 1M");

        Mount(image, mountPoint, "-o", "partition=2");
        Assert.Equal(["disk.raw"], Names(mountPoint));
        Assert.Equal(Mebibyte, new FileInfo(raw).Length);
        Assert.False(File.ReadAllBytes(raw).AsSpan().ContainsAnyExcept((byte)7));
        Unmount(mountPoint);

        // On a mount point that is a file.
        string file = NewMountPoint("file");
        Directory.Delete(file);
        File.WriteAllBytes(file, []);
        Run("mount", "-o", "start=12M,length=64K", image, file).ShouldSucceed();
        Assert.Equal(65536, new FileInfo(file).Length);
        Assert.False(File.ReadAllBytes(file).AsSpan().ContainsAnyExcept((byte)7));
        Unmount(file);

        Mount(image, mountPoint, "--start", "63M");
        Assert.Equal(Mebibyte, new FileInfo(raw).Length);
        Unmount(mountPoint);
        Mount(image, mountPoint, "-o", "partitions=off");
        Assert.Equal(["disk.raw"], Names(mountPoint));
        Unmount(mountPoint);
        Mount(image, mountPoint, "--nopartitions");
        Assert.Equal(["disk.raw"], Names(mountPoint));
        Assert.False(File.Exists(PartitionOf(raw, 1)));
    }

    [SkippableTheory]
    [InlineData("partition=3", 32, "has no partition 3")]
    [InlineData("start=64M,length=1", 32, "does not lie in it")]
    [InlineData("start=65M", 32, "does not lie in it")]
    [InlineData("partition=1,start=1M", 1, "partition")]
    [InlineData("partition=0", 1, "partition")]
    public void A_window_that_is_not_there_is_refused(string options, int exitCode, string expected)
    {
        string mountPoint = NewMountPoint();
        ProcessResult result = Run("mount", "-o", options, NewImage(), mountPoint);
        Assert.Equal(exitCode, result.ExitCode);
        OneLine.Error(result, expected);
        Assert.False(IsMounted(mountPoint));
    }

    private static void Partition(string raw, string script) =>
        Tool(
            "sh", "-ec", "printf \"$2\" | PATH=$PATH:/usr/sbin:/sbin sfdisk -q --no-reread --no-tell-kernel \"$1\"",
            "sh", raw, script);

    private static string PartitionOf(string raw, int number) => $"{raw[..^4]}.p{number}.raw";

    private static string[] Names(string directory) =>
    [
        .. Directory.GetFileSystemEntries(directory).Select(static path => Path.GetFileName(path)!)
            .Order(StringComparer.Ordinal),
    ];

    private static void Fill(FileStream file, long offset, int length, byte value)
    {
        byte[] bytes = new byte[length];
        bytes.AsSpan().Fill(value);
        file.Position = offset;
        file.Write(bytes);
    }

    private static bool IsFilled(FileStream file, long offset, int length, byte value)
    {
        byte[] bytes = new byte[length];
        file.Position = offset;
        file.ReadExactly(bytes);
        return !bytes.AsSpan().ContainsAnyExcept(value);
    }
}
