// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Security.Cryptography;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Disks;

/// <summary>
/// A file system of thousands of files, converted by qemu-img into every kind of image: the mounted raw file holds what
/// qemu-img itself reads from it.
/// </summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class RealImageTests(FileTree tree) : IClassFixture<FileTree>
{
    [SkippableTheory]
    [InlineData("v2", 65536)]
    [InlineData("v2", 4096)]
    [InlineData("v2", 2097152)]
    [InlineData("v3", 65536)]
    [InlineData("v3", 4096)]
    [InlineData("v3", 2097152)]
    [InlineData("extended", 65536)]
    [InlineData("extended", 2097152)]
    [InlineData("zlib", 65536)]
    [InlineData("zlib", 4096)]
    [InlineData("zlib", 2097152)]
    [InlineData("zstd", 65536)]
    [InlineData("zstd", 4096)]
    [InlineData("zstd", 2097152)]
    [InlineData("overlay on raw", 65536)]
    [InlineData("overlay on raw", 4096)]
    [InlineData("overlay on raw", 2097152)]
    [InlineData("overlay on qcow2", 65536)]
    [InlineData("overlay on qcow2", 4096)]
    [InlineData("overlay on qcow2", 2097152)]
    public void The_raw_file_is_what_qemu_img_converts_the_image_to(string kind, int clusterSize)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("disk.qcow2");
        Make(kind, image, clusterSize, directory);

        string converted = directory.File("converted.raw");
        QemuTools.Img("convert", "-f", "qcow2", "-O", "raw", image, converted);
        string expected = HashOf(converted);
        byte[] before = File.ReadAllBytes(image);
        using (MountedImage mounted = MountedImage.Start(image, directory.File("mnt"), "-o", "backing_format=raw"))
        {
            Assert.Equal(expected, mounted.Hash());
            mounted.Unmount();
        }

        Assert.True(before.AsSpan().SequenceEqual(File.ReadAllBytes(image)), "reading changed the image");
    }

    private void Make(string kind, string image, int clusterSize, TempDirectory directory)
    {
        string disk = tree.RawDisk();
        string cluster = string.Create(CultureInfo.InvariantCulture, $"cluster_size={clusterSize}");
        switch (kind)
        {
            case "v2":
                Convert(disk, image, $"compat=0.10,{cluster}");
                break;
            case "v3":
                Convert(disk, image, $"compat=1.1,{cluster}");
                break;
            case "extended":
                Convert(disk, image, $"extended_l2=on,{cluster}");
                break;
            case "zlib" or "zstd":
                Convert(disk, image, $"compression_type={kind},{cluster}", "-c");
                break;
            case "overlay on raw":
                File.Copy(disk, directory.File("base.raw"));
                MakeOverlay(image, "base.raw", "raw", cluster);
                break;
            default:
                Convert(disk, directory.File("base.qcow2"), $"compat=1.1,{cluster}");
                MakeOverlay(image, "base.qcow2", "qcow2", cluster);
                break;
        }
    }

    private static void Convert(string disk, string image, string options, params string[] more) =>
        QemuTools.Img(["convert", "-f", "raw", "-O", "qcow2", .. more, "-o", options, disk, image]);

    /// <summary>An overlay longer than its backing file, with data and zeroes of its own.</summary>
    private static void MakeOverlay(string image, string backing, string format, string cluster)
    {
        ProcessRunner.Run(
            "qemu-img",
            ["create", "-q", "-f", "qcow2", "-b", backing, "-F", format, "-o", cluster, image, "72M"],
            Path.GetDirectoryName(image)).ShouldSucceed();
        QemuTools.Io(
            image, "write -P 0x5a 1M 300k", "write -z 5M 2M", "write -P 0xa5 67100k 100k", "write -P 1 71M 1k");
    }

    private static string HashOf(string path)
    {
        using FileStream file = File.OpenRead(path);
        return System.Convert.ToHexString(SHA256.HashData(file));
    }
}
