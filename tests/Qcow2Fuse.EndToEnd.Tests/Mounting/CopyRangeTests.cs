// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>copy_file_range(2) between files of a mount, called by xfs_io.</summary>
public sealed class CopyRangeTests : MountTest
{
    private const int Mebibyte = 1 << 20;
    private const int Size = 32 * Mebibyte;

    private readonly TempDirectory _secrets = new();

    [SkippableTheory]
    [InlineData("compat=1.1", new string[0])]
    [InlineData("compat=1.1,extended_l2=on", new[] { "-o", "cache=none" })]
    [InlineData("compat=0.10", new[] { "-o", "cache=none" })]
    [InlineData("compat=1.1", new[] { "-o", "compress" })]
    public void A_snapshot_is_copied_back(string format, string[] options)
    {
        string image = NewImage("32M", format);
        QemuTools.Io(image, "write -P 1 0 20M", "write -c -P 2 20M 1M", "write -P 3 22M 1M");
        byte[] old = QemuTools.ConvertToRaw(image);
        QemuTools.Img("snapshot", "-c", "one", image);
        QemuTools.Io(image, "write -P 9 0 24M");
        byte[] expected = QemuTools.ConvertToRaw(image);
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint, options);
        string snapshot = Path.Combine(mountPoint, ".qcow2fuse/disk/snapshots/one.raw");
        using FileStream reader = File.OpenRead(raw);
        Assert.True(ReadAll(reader).AsSpan().SequenceEqual(expected), "before");

        // Data, compressed clusters, holes, and no end on a sector.
        foreach ((int from, int to, int length) in ((int, int, int)[])
            [(100, 5000, 19 * Mebibyte), ((20 * Mebibyte) - 7, (20 * Mebibyte) + 9, (4 * Mebibyte) + 77)])
        {
            CopyRange(snapshot, from, raw, to, length).ShouldSucceed();
            old.AsSpan(from, length).CopyTo(expected.AsSpan(to));
            Assert.True(ReadAll(reader).AsSpan().SequenceEqual(expected), $"after {from}");
        }

        reader.Close();
        Unmount(mountPoint);
        Assert.True(QemuTools.ConvertToRaw(image).AsSpan().SequenceEqual(expected), "unmounted");
        QemuTools.ShouldPassCheck(image);
    }

    [SkippableTheory]
    [InlineData("luks")]
    [InlineData("aes")]
    public void An_encrypted_disk_is_copied_within_itself(string format)
    {
        RequireMounting();
        QemuTools.RequireTool("qemu-io");
        QemuSecret secret = new(_secrets);
        string image = PathOf("disk.qcow2");
        secret.Create(image, format, size: "32M");
        secret.Io(image, "write -P 5 0 1M", "write -P 6 1M 3M");
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint, "--secret", $"file:{secret.Path}");
        byte[] expected = File.ReadAllBytes(raw);
        CopyRange(raw, 1000, raw, (8 * Mebibyte) + 1, 4 * Mebibyte).ShouldSucceed();
        expected.AsSpan(1000, 4 * Mebibyte).CopyTo(expected.AsSpan((8 * Mebibyte) + 1));
        Assert.Equal(6, expected[11 * Mebibyte]);
        Assert.True(File.ReadAllBytes(raw).AsSpan().SequenceEqual(expected), "mounted");
        Unmount(mountPoint);
        raw = Mount(image, mountPoint, "--secret", $"file:{secret.Path}");
        Assert.True(File.ReadAllBytes(raw).AsSpan().SequenceEqual(expected), "mounted again");
    }

    [SkippableFact]
    public void Between_images_holes_are_copied_as_holes()
    {
        Directory.CreateDirectory(PathOf("images"));
        string from = NewImage("1G", name: "images/a.qcow2");
        string to = NewImage("1G", name: "images/b.qcow2");
        QemuTools.Io(from, "write -P 1 500M 64k");
        QemuTools.Io(to, "write -P 2 100M 16M");
        string mountPoint = NewMountPoint();
        Run("mount", PathOf("images"), mountPoint).ShouldSucceed();
        string[] raw = [Path.Combine(mountPoint, "a.raw"), Path.Combine(mountPoint, "b.raw")];
        CopyRange(raw[0], 0, raw[1], 0, 1 << 30).ShouldSucceed();
        Tool("cmp", raw[0], raw[1]);
        Unmount(mountPoint);
        Assert.Equal("Images are identical.\n", QemuTools.Img("compare", from, to));

        // Copied by the kernel the gibibyte of zeroes would be stored.
        Assert.InRange(new FileInfo(to).Length, 1, 20 * Mebibyte);
        string map = QemuTools.Img("map", to);
        Assert.Equal(2, map.TrimEnd('\n').Split('\n').Length);
        QemuTools.ShouldPassCheck(from);
        QemuTools.ShouldPassCheck(to);
    }

    [SkippableFact]
    public void Other_views_of_the_disk_see_what_was_copied()
    {
        string image = NewImage("32M");
        string raw = Mount(image);
        QemuTools.RequireTool("sfdisk");
        Tool(
            "sh", "-ec", "printf 'label: dos\\nstart=2048, size=20480\\n' | "
            + "PATH=$PATH:/usr/sbin:/sbin sfdisk -q --no-reread --no-tell-kernel \"$1\"", "sh", raw);
        string partition = raw[..^4] + ".p1.raw";
        byte[] data = Stamp.Bytes(0, 2 * Mebibyte, 4);
        File.WriteAllBytes(PathOf("data"), data);
        Tool("dd", $"if={PathOf("data")}", $"of={raw}", "bs=1M", "seek=20", "conv=notrunc,fsync", "status=none");
        using FileStream whole = File.OpenRead(raw);
        _ = ReadAll(whole);

        // Through the whole disk: the partition shows it. Through the partition: the pages of the disk are new.
        CopyRange(raw, 20 * Mebibyte, raw, 3 * Mebibyte, 2 * Mebibyte).ShouldSucceed();
        Assert.True(File.ReadAllBytes(partition).AsSpan(2 * Mebibyte, 2 * Mebibyte).SequenceEqual(data));
        CopyRange(partition, 2 * Mebibyte, partition, (6 * Mebibyte) + 3, (2 * Mebibyte) - 9).ShouldSucceed();
        Tool("sync", partition);
        Assert.True(
            ReadAll(whole).AsSpan((7 * Mebibyte) + 3, (2 * Mebibyte) - 9)
                .SequenceEqual(data.AsSpan(0, data.Length - 9)));

        // The same bytes of the disk under two names.
        Assert.Contains(
            "Invalid argument", CopyRange(partition, 0, raw, Mebibyte + 4096, 65536).Error, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void What_cannot_be_copied_is_refused()
    {
        string image = NewImage("32M");
        QemuTools.Io(image, "write -P 1 0 32M");
        QemuTools.Img("snapshot", "-c", "one", image);
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        string snapshot = Path.Combine(mountPoint, ".qcow2fuse/disk/snapshots/one.raw");
        Assert.Contains("Invalid argument", CopyRange(raw, 0, raw, 1000, 2000).Error, StringComparison.Ordinal);
        Assert.Contains(
            "Read-only file system", CopyRange(raw, 0, snapshot, 0, 4096).Error, StringComparison.Ordinal);

        // Nothing is behind the end of the source, and the disk does not grow.
        CopyRange(snapshot, Size, raw, 0, 4096).ShouldSucceed();
        CopyRange(snapshot, Size - 100, raw, 0, 4096).ShouldSucceed();
        Assert.Contains("No space left", CopyRange(snapshot, 0, raw, Size - 10, 4096).Error, StringComparison.Ordinal);
        Assert.Equal(Size, new FileInfo(raw).Length);

        // A text of the mount is no disk, so that the kernel copies it.
        string info = Path.Combine(mountPoint, ".qcow2fuse/disk/info");
        byte[] text = File.ReadAllBytes(info);
        CopyRange(info, 0, raw, 4096, text.Length).ShouldSucceed();
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        _secrets.Dispose();
    }

    private static ProcessResult CopyRange(string source, long from, string destination, long to, long length) =>
        TryTool("xfs_io", "-c", string.Create(
            CultureInfo.InvariantCulture, $"copy_range -s {from} -d {to} -l {length} {source}"), destination);

    private static byte[] ReadAll(FileStream file)
    {
        byte[] bytes = new byte[file.Length];
        file.Position = 0;
        file.ReadExactly(bytes);
        return bytes;
    }
}
