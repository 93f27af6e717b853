// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>Persistent bitmaps of an image while it is mounted.</summary>
public sealed class BitmapMountTests : MountTest
{
    [SkippableFact]
    public void A_bitmap_records_what_is_written_to_the_raw_file()
    {
        string image = ImageWithBitmaps();
        string mountPoint = NewMountPoint();
        Write(Mount(image, mountPoint), [3 << 20, 40 << 20], 100_000);
        Unmount(mountPoint);

        IReadOnlyList<PlainBitmap> bitmaps = Read(image);
        Assert.Equal(["nightly", "weekly"], bitmaps.Select(bitmap => bitmap.Name));
        Assert.Equal([48, 49, 640, 641], Marked(bitmaps[0]));
        Assert.Equal([0], Marked(bitmaps[1]));
        QemuTools.ShouldPassCheck(image);

        // What QEMU would copy for an incremental backup.
        string map = QemuTools.Img(
            "map", "--output=json", "--image-opts",
            $"driver=qcow2,file.driver=file,file.filename={image}");
        Assert.Contains("\"data\": true", map, StringComparison.Ordinal);
        QemuTools.Img("bitmap", "--merge", "nightly", image, "weekly");
        Assert.Equal([0, 48, 49, 640, 641], Marked(Read(image)[1]));
    }

    [SkippableFact]
    public void A_killed_daemon_leaves_a_bitmap_that_recorded_in_use_and_the_others_valid()
    {
        string image = ImageWithBitmaps();
        string mountPoint = NewMountPoint();
        Write(Mount(image, mountPoint), [3 << 20], 100_000);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Signal(daemon, "KILL");
        WaitForEnd(daemon);

        IReadOnlyList<PlainBitmap> bitmaps = Read(image);
        Assert.True(bitmaps[0].InUse);
        Assert.Equal([0], Marked(bitmaps[1]));
        QemuTools.ShouldPassCheck(image, allowLeaks: true);
    }

    [SkippableFact]
    public void Reading_changes_nothing()
    {
        string image = ImageWithBitmaps();
        byte[] before = File.ReadAllBytes(image);
        string mountPoint = NewMountPoint();
        File.ReadAllBytes(Mount(image, mountPoint));
        Unmount(mountPoint);
        Assert.Equal(before, File.ReadAllBytes(image));
    }

    [SkippableFact]
    public void A_bitmap_of_unknown_kind_makes_the_mount_read_only_unless_it_is_given_up()
    {
        string image = ImageWithBitmaps();
        long directory;
        using (FileImage file = new(image))
            directory = new PlainReader(file).Header.BitmapDirectory.Offset;
        using (FileStream stream = File.OpenWrite(image))
        {
            stream.Position = directory + 16;
            stream.WriteByte(7);
        }

        string mountPoint = NewMountPoint();
        ProcessResult mounted = Run("mount", image, mountPoint);
        Assert.Equal(0, mounted.ExitCode);
        Assert.Contains("'nightly' is of unknown type 7", mounted.Error, StringComparison.Ordinal);
        Assert.Contains("drop_bitmaps", mounted.Error, StringComparison.Ordinal);
        Assert.ThrowsAny<IOException>(() => Write(RawFileOf(image, mountPoint), [0], 512));
        Unmount(mountPoint);
        using (FileImage file = new(image))
            Assert.Equal(1UL, new PlainReader(file).Header.Autoclear);

        Write(Mount(image, mountPoint, "-o", "drop_bitmaps"), [0], 512);
        Unmount(mountPoint);
        using (FileImage file = new(image))
            Assert.Equal(0UL, new PlainReader(file).Header.Autoclear);
    }

    private string ImageWithBitmaps()
    {
        RequireMounting();
        string image = NewImage();
        QemuTools.Img("bitmap", "--add", image, "nightly");
        QemuTools.Img("bitmap", "--add", image, "weekly");
        QemuTools.Io(image, "write 0 64k");
        QemuTools.Img("bitmap", "--disable", image, "weekly");
        QemuTools.Img("bitmap", "--clear", image, "nightly");
        return image;
    }

    private static void Write(string raw, long[] offsets, int length)
    {
        using FileStream stream = new(raw, FileMode.Open, FileAccess.Write);
        foreach (long offset in offsets)
        {
            stream.Position = offset;
            stream.Write(Stamp.Bytes(offset, length, 1));
        }

        stream.Flush(flushToDisk: true);
    }

    private static IReadOnlyList<PlainBitmap> Read(string image)
    {
        using FileImage file = new(image);
        return PlainBitmaps.Read(new PlainReader(file));
    }

    private static IEnumerable<int> Marked(PlainBitmap bitmap) =>
        Enumerable.Range(0, bitmap.Bits!.Length).Where(i => bitmap.Bits[i]);
}
