// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Text.Json.Nodes;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Control;

/// <summary>The commands on an image that is mounted do what they do on one that is not.</summary>
public sealed class MountedCommandTests : ControlTest
{
    private const int Size = 8 << 20;

    [SkippableFact]
    public void A_snapshot_has_what_the_kernel_still_held()
    {
        string image = NewImage("8M");
        using MountedImage mounted = Start(image);
        byte[] content = Enumerable.Range(0, Size).Select(static i => (byte)(i / 4096 + 1)).ToArray();
        using (FileStream raw = File.OpenWrite(mounted.RawFile))
            raw.Write(content);
        ShouldPrint(0, "", "", "snapshot", "-c", "before", image);
        using (FileStream raw = File.OpenWrite(mounted.RawFile))
            raw.Write(new byte[Size / 2]);
        string list = Run("snapshot", "-l", image).ShouldSucceed().Output;
        Assert.Contains("before", list, StringComparison.Ordinal);
        mounted.Unmount();
        Assert.Equal(QemuTools.Img("snapshot", "-l", image), list);
        ShouldBeSound(image);
        Assert.True(content.AsSpan().SequenceEqual(DiskOf(image, "before")));
    }

    [SkippableFact]
    public void A_snapshot_taken_while_the_guest_writes_is_of_one_moment()
    {
        string image = NewImage("8M");
        using MountedImage mounted = Start(image);
        using CancellationTokenSource enough = new();
        Task writer = Task.Run(() => CountUp(mounted.RawFile, enough.Token));
        for (int i = 0; i < 5; i++)
        {
            Run("snapshot", "-c", $"s{i}", image).ShouldSucceed();
            Assert.Contains("No errors", Run("check", image).ShouldSucceed().Output, StringComparison.Ordinal);
        }

        Run("snapshot", "-d", "s0", image).ShouldSucceed();
        enough.Cancel();
        writer.GetAwaiter().GetResult();
        mounted.Unmount();
        ShouldBeSound(image);
        long last = 0;
        for (int i = 1; i < 5; i++)
        {
            byte[] disk = DiskOf(image, $"s{i}");
            long first = BinaryPrimitives.ReadInt64LittleEndian(disk);
            long second = BinaryPrimitives.ReadInt64LittleEndian(disk.AsSpan(Size / 2));
            Assert.True(first == second || first == second + 1, $"{first} was written before {second}");
            Assert.True(first >= last, $"snapshot {i} is older than the one before");
            last = first;
        }

        Assert.True(last > 0, "nothing was written meanwhile");
    }

    [SkippableFact]
    public void A_snapshot_is_not_applied_to_a_mounted_disk()
    {
        string image = NewImage();
        QemuTools.Img("snapshot", "-c", "old", image);
        using MountedImage mounted = Start(image);
        ShouldPrint(
            1, "",
            "qcow2fuse: DIR/disk.qcow2: is mounted, and a disk in use cannot go back to a snapshot\n"
            + "hint: qcow2fuse umount DIR/mnt first\n",
            "snapshot", "-a", "old", image);
        ShouldPrint(
            1, "", "qcow2fuse: disk.qcow2: has no snapshot 'none'\n", "snapshot", "-d", "none", "disk.qcow2");
    }

    [SkippableFact]
    public void The_new_size_is_seen_at_once()
    {
        string image = NewImage("8M");
        using MountedImage mounted = Start(image);
        Assert.Equal(Size, new FileInfo(mounted.RawFile).Length);
        ShouldPrint(0, "Image resized.\n", "", "resize", image, "+8M");
        Assert.Equal(2 * Size, new FileInfo(mounted.RawFile).Length);
        using (FileStream raw = File.OpenWrite(mounted.RawFile))
        {
            raw.Position = Size + 4096;
            raw.Write("grown"u8);
        }

        ProcessResult refused = Run("resize", image, "4M");
        Assert.Equal(1, refused.ExitCode);
        Assert.Contains("are less than its 16777216", refused.Error, StringComparison.Ordinal);
        ShouldPrint(0, "", "", "resize", "-q", "--shrink", image, "12M");
        Assert.Equal(Size * 3 / 2, new FileInfo(mounted.RawFile).Length);
        mounted.Unmount();
        ShouldBeSound(image);
        JsonNode info = JsonNode.Parse(QemuTools.Img("info", "--output=json", image))!;
        Assert.Equal(Size * 3 / 2, (int)info["virtual-size"]!);
        QemuTools.Img("convert", "-O", "raw", image, PathOf("out.raw"));
        Assert.Equal("grown"u8, File.ReadAllBytes(PathOf("out.raw")).AsSpan(Size + 4096, 5));
    }

    [SkippableFact]
    public void Bitmaps_are_changed()
    {
        string image = NewImage("8M");
        using MountedImage mounted = Start(image);
        Run("bitmap", "--add", "-g", "4k", image, "a").ShouldSucceed();
        Run("bitmap", "--add", "--disable", image, "b").ShouldSucceed();
        Tool("dd", "if=/dev/zero", $"of={mounted.RawFile}", "bs=64k", "count=2", "conv=notrunc,fsync", "status=none");
        Run("bitmap", "--disable", image, "a").ShouldSucceed();
        Run("bitmap", "--add", "-g", "4k", "--disable", "--merge", "a", image, "c").ShouldSucceed();
        Run("bitmap", "--clear", image, "a").ShouldSucceed();
        Run("bitmap", "--enable", image, "a").ShouldSucceed();
        Run("bitmap", "--remove", image, "b").ShouldSucceed();
        ShouldPrint(
            1, "", "qcow2fuse: disk.qcow2: bitmap 'b': does not exist\n", "bitmap", "--clear", "disk.qcow2", "b");
        mounted.Unmount();
        ShouldBeSound(image);
        JsonArray bitmaps = JsonNode.Parse(QemuTools.Img("info", "--output=json", image))!
            ["format-specific"]!["data"]!["bitmaps"]!.AsArray();
        Assert.Equal(
            ["a [\"auto\"]", "c []"],
            bitmaps.Select(static one => $"{one!["name"]} {one["flags"]!.ToJsonString()}").Order());
    }

    [SkippableTheory]
    [InlineData("compat=1.1")]
    [InlineData("compat=1.1,lazy_refcounts=on")]
    public void Info_and_check_print_what_they_do_afterwards(string options)
    {
        string image = NewImage("8M", options);
        using MountedImage mounted = Start(image);
        File.WriteAllBytes(PathOf("some"), Enumerable.Repeat((byte)7, 3 << 20).ToArray());
        Tool("dd", $"if={PathOf("some")}", $"of={mounted.RawFile}", "bs=64k", "conv=notrunc", "status=none");
        ShouldPrint(0, "", "", "check", "-q", image);
        string check = Run("check", image).ShouldSucceed().Output;
        string json = Run("check", "--output=json", image).ShouldSucceed().Output;
        string info = Run("info", image).ShouldSucceed().Output;
        ProcessResult repair = Run("check", "-r", "leaks", image);
        Assert.Equal(1, repair.ExitCode);
        Assert.Contains("is in use by qcow2fuse", repair.Error, StringComparison.Ordinal);
        mounted.Unmount();
        Assert.Equal(QemuTools.Img("check", image), check);
        Assert.Equal(Run("check", "--output=json", image).ShouldSucceed().Output, json);
        Assert.Equal(
            Run("info", image).ShouldSucceed().Output,
            info.Replace("cleanly shut down: no\n", "", StringComparison.Ordinal));
    }

    [SkippableFact]
    public void A_read_only_mount_stays_as_it_is()
    {
        string image = NewImage();
        using MountedImage mounted = Start(image, "-o", "ro");
        ShouldPrint(
            1, "", "qcow2fuse: disk.qcow2: is mounted read-only and cannot be changed\n",
            "resize", "disk.qcow2", "+1M");
        Run("snapshot", "-l", image).ShouldSucceed();
        Run("check", image).ShouldSucceed();
    }

    [SkippableFact]
    public void The_images_of_a_directory_are_told_apart_by_their_paths()
    {
        RequireMounting();
        Directory.CreateDirectory(PathOf("vm"));
        string[] images = [NewImage("8M", name: "vm/one.qcow2"), NewImage("8M", name: "vm/two.qcow2")];
        string mountPoint = PathOf("mnt");
        Directory.CreateDirectory(mountPoint);
        Run("mount", PathOf("vm"), mountPoint).ShouldSucceed();
        try
        {
            using (FileStream one = File.OpenWrite(Path.Combine(mountPoint, "one.raw")))
            using (FileStream two = File.OpenWrite(Path.Combine(mountPoint, "two.raw")))
            {
                Run("snapshot", "-c", "first", images[0]).ShouldSucceed();
                Run("resize", "-q", images[1], "16M").ShouldSucceed();
                Assert.Contains(
                    "unmounts them all", Run("umount", images[0]).Error, StringComparison.Ordinal);
                Assert.Equal(16 << 20, new FileInfo(two.Name).Length);
            }

            Run("umount", mountPoint).ShouldSucceed();
        }
        finally
        {
            _ = ProcessRunner.Run("umount", ["-l", mountPoint]);
        }

        WaitUntil(() => Run("info", images[0]).ExitCode == 0, "the image stays locked");
        Assert.Contains("first", QemuTools.Img("snapshot", "-l", images[0]), StringComparison.Ordinal);
        Assert.DoesNotContain("first", QemuTools.Img("snapshot", "-l", images[1]), StringComparison.Ordinal);
        Assert.Contains("16 MiB", QemuTools.Img("info", images[1]), StringComparison.Ordinal);
    }

    [SkippableFact]
    public void An_encrypted_image_needs_no_passphrase_again()
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        QemuSecret secret = new(directory);
        string image = PathOf("disk.qcow2");
        secret.Create(image, "luks", size: "8M");
        using MountedImage mounted = Start(image, "-o", $"secret=file:{secret.Path}");
        Run("snapshot", "-c", "safe", image).ShouldSucceed();
        Run("resize", "-q", image, "16M").ShouldSucceed();
        Assert.Equal(2 * Size, new FileInfo(mounted.RawFile).Length);
        mounted.Unmount();
        string[] opened =
        [
            "--object", $"secret,id=s,file={secret.Path}",
            "--image-opts", $"driver=qcow2,encrypt.key-secret=s,file.filename={image}",
        ];
        QemuTools.Img(["check", "-q", .. opened]);
        Assert.Contains("safe", QemuTools.Img(["snapshot", "-l", .. opened]), StringComparison.Ordinal);
    }

    /// <summary>Writes 1, 2, 3 and so on to the first and then to the second half of a disk, each durable.</summary>
    private static void CountUp(string file, CancellationToken enough)
    {
        using FileStream raw = new(
            file, FileMode.Open, FileAccess.Write, FileShare.ReadWrite, bufferSize: 0, FileOptions.WriteThrough);
        byte[] number = new byte[sizeof(long)];
        for (long i = 1; !enough.IsCancellationRequested; i++)
        {
            BinaryPrimitives.WriteInt64LittleEndian(number, i);
            foreach (int place in (int[])[0, Size / 2])
            {
                raw.Position = place;
                raw.Write(number);
            }
        }
    }
}
