// SPDX-License-Identifier: MIT
using System.Globalization;
using System.IO.MemoryMappedFiles;
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>What programs do with a raw file: copying, mapping, direct I/O, file systems in user space.</summary>
public sealed class FileToolTests : MountTest
{
    private const int Mebibyte = 1 << 20;

    [SkippableFact]
    public void A_sparse_copy_into_the_mount_leaves_the_holes_out()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        string source = PathOf("source");
        using (FileStream file = File.Create(source))
        {
            file.SetLength(40 * Mebibyte);
            foreach (int start in (int[])[0, 10, 30])
            {
                file.Position = start * Mebibyte;
                file.Write(Stamp.Bytes(file.Position, 300_000, 1));
            }
        }

        Tool("dd", "if=" + source, "of=" + raw, "bs=64k", "conv=sparse,notrunc,fsync", "status=none");
        Tool("cmp", "-n", "41943040", source, raw);
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
        Assert.InRange(new FileInfo(image).Length, Mebibyte, 3 * Mebibyte);
    }

    [SkippableFact]
    public void Mapped_buffered_and_direct_access_see_each_other()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        string block = PathOf("block");
        using (MemoryMappedFile file = MemoryMappedFile.CreateFromFile(raw, FileMode.Open))
        using (MemoryMappedViewAccessor mapped = file.CreateViewAccessor(0, Mebibyte))
        {
            byte[] expected = Stamp.Bytes(0, 8192, 3);
            mapped.WriteArray(4096, expected, 0, expected.Length);
            mapped.Flush();
            Tool("dd", "if=" + raw, "of=" + block, "bs=4096", "skip=1", "count=2", "iflag=direct", "status=none");
            Assert.Equal(expected, File.ReadAllBytes(block));

            expected = Stamp.Bytes(0, 4096, 4);
            File.WriteAllBytes(block, expected);
            Tool("dd", "if=" + block, "of=" + raw, "bs=4096", "seek=2", "oflag=direct", "conv=notrunc", "status=none");
            byte[] seen = new byte[4096];
            mapped.ReadArray(8192, seen, 0, seen.Length);
            Assert.Equal(expected, seen);
            using FileStream buffered = File.OpenRead(raw);
            buffered.Position = 8192;
            buffered.ReadExactly(seen);
            Assert.Equal(expected, seen);

            // Never flushed by anybody but the kernel.
            mapped.WriteArray(500_000, expected, 0, expected.Length);
        }

        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
        Assert.Equal(Stamp.Bytes(0, 4096, 4), QemuTools.ConvertToRaw(image)[500_000..504_096]);
    }

    [SkippableFact]
    public void Copies_made_by_the_kernel_are_right()
    {
        QemuTools.RequireTool("xfs_io");
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        string outside = PathOf("outside");
        byte[] content = Stamp.Bytes(0, 4 * Mebibyte, 6);
        File.WriteAllBytes(outside, content);

        // cp tries copy_file_range(2) first. Within the file neither end lies on a page.
        Tool("cp", "--reflink=auto", outside, raw);
        ProcessResult within = TryTool("xfs_io", "-c", $"copy_range -s 100 -d 20000001 -l 3000000 {raw}", raw);
        Assert.Equal((0, ""), (within.ExitCode, within.Error));
        Tool("cp", "--reflink=auto", raw, PathOf("whole"));
        Tool("cmp", raw, PathOf("whole"));

        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
        byte[] disk = QemuTools.ConvertToRaw(image);
        Assert.True(content.AsSpan().SequenceEqual(disk.AsSpan(0, content.Length)), "the copy differs");
        Assert.True(content.AsSpan(100, 3_000_000).SequenceEqual(disk.AsSpan(20_000_001, 3_000_000)), "within");
    }

    [SkippableFact]
    public void The_sizes_of_the_file_system_make_sense()
    {
        string image = NewImage("1T");
        string mountPoint = NewMountPoint();
        Mount(image, mountPoint);
        long[] empty = Sizes(mountPoint);
        Assert.InRange(empty[0], 1L << 40, (1L << 40) + Mebibyte);
        Assert.InRange(empty[1], empty[0] - (4 * Mebibyte), empty[0]);
        Assert.Equal(empty[1], empty[2]);
        Tool(
            "dd", "if=/dev/zero", "of=" + RawFileOf(image, mountPoint), "bs=1M", "count=10", "conv=notrunc,fsync",
            "status=none");
        Assert.InRange(empty[1] - Sizes(mountPoint)[1], 10 * Mebibyte, 12 * Mebibyte);
        Tool("df", mountPoint);
        Tool("df", "-i", mountPoint);
    }

    [SkippableFact]
    public void A_file_system_in_user_space_lives_on_it()
    {
        QemuTools.RequireTool("fuse2fs");
        QemuTools.RequireTool("mkfs.ext4");
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        Tool("mkfs.ext4", "-q", "-F", raw);
        string inner = PathOf("inner");
        Directory.CreateDirectory(inner);
        byte[] content = Stamp.Bytes(0, 3 * Mebibyte, 8);
        Tool("fuse2fs", "-o", "fakeroot", raw, inner);
        try
        {
            for (int i = 0; i < 5; i++)
                File.WriteAllBytes(Path.Combine(inner, $"file{i}"), content);
            File.Delete(Path.Combine(inner, "file3"));
            Assert.Equal(content, File.ReadAllBytes(Path.Combine(inner, "file4")));
        }
        finally
        {
            Umount(inner);
        }

        // fuse2fs writes its last blocks after the unmount.
        WaitUntil(() => TryTool("fuser", "-s", raw).ExitCode != 0, "fuse2fs does not end");
        Tool("e2fsck", "-fn", raw);
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
        File.WriteAllBytes(PathOf("disk"), QemuTools.ConvertToRaw(image));
        Tool("e2fsck", "-fn", PathOf("disk"));
        Tool("debugfs", "-R", $"dump file4 {PathOf("file4")}", PathOf("disk"));
        Assert.Equal(content, File.ReadAllBytes(PathOf("file4")));
    }

    /// <summary>Bytes in all, free, and free for users.</summary>
    private static long[] Sizes(string path)
    {
        long[] numbers = [.. Tool("stat", "-f", "-c", "%S %b %f %a", path).Split(' ')
            .Select(static word => long.Parse(word, CultureInfo.InvariantCulture))];
        return [numbers[0] * numbers[1], numbers[0] * numbers[2], numbers[0] * numbers[3]];
    }
}
