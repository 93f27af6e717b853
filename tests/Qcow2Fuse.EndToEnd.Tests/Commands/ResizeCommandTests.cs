// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary><c>resize</c> takes what <c>qemu-img resize</c> takes.</summary>
public sealed class ResizeCommandTests : CommandTest
{
    [SkippableTheory]
    [InlineData("128M", 128L << 20)]
    [InlineData("+1G", (1L << 30) + (64 << 20))]
    [InlineData("64M", 64L << 20)]
    [InlineData("67109376", (64L << 20) + 512)]
    [InlineData("1T", 1L << 40)]
    public void A_disk_grows(string size, long expected)
    {
        string image = NewImage();
        ShouldPrint(0, "Image resized.\n", "", "resize", image, size);
        Assert.Contains($"\"virtual-size\": {expected}", QemuTools.Img("info", "--output=json", image),
            StringComparison.Ordinal);
        QemuTools.ShouldPassCheck(image);
    }

    [SkippableTheory]
    [InlineData("1M")]
    [InlineData("-63M")]
    public void A_disk_shrinks_only_where_asked(string size)
    {
        string image = NewImage();
        ShouldPrint(
            1, "", "qcow2fuse: DIR/disk.qcow2: 1048576 bytes are less than its 67108864\n"
            + "hint: --shrink allows it; what lies beyond the new end is lost\n", "resize", image, size);
        ShouldPrint(0, "", "", "resize", "-q", "--shrink", image, size);
        Assert.Contains("\"virtual-size\": 1048576", QemuTools.Img("info", "--output=json", image),
            StringComparison.Ordinal);
        QemuTools.ShouldPassCheck(image);
    }

    [SkippableTheory]
    [InlineData("metadata")]
    [InlineData("falloc")]
    [InlineData("full")]
    public void New_space_is_preallocated(string mode)
    {
        string image = NewImage();
        Run("resize", "-q", $"--preallocation={mode}", image, "+8M").ShouldSucceed();
        QemuTools.ShouldPassCheck(image);
        Assert.Matches(
            @"""start"": 67108864, ""length"": 8388608, [^}]*""offset""", QemuTools.Img("map", "--output=json", image));
    }

    [SkippableFact]
    public void A_raw_disk_is_resized_where_the_format_is_named()
    {
        string raw = PathOf("disk.raw");
        File.WriteAllBytes(raw, new byte[1 << 20]);
        Run("resize", "-q", "-f", "raw", raw, "3M").ShouldSucceed();
        Assert.Equal(3 << 20, new FileInfo(raw).Length);
        ShouldPrint(
            1, "", "qcow2fuse: DIR/disk.raw: is not an image of a known format\n"
            + "hint: if it is a raw disk, say so with --format raw\n", "resize", raw, "4M");
    }

    [SkippableTheory]
    [InlineData("much", "invalid size 'much'\nhint: sizes are written like 512M, 10G, +1G or -1G")]
    [InlineData("-65M", "has only 67108864 bytes")]
    [InlineData("-64M", "a disk of 0 bytes is no disk")]
    [InlineData("0", "a disk of 0 bytes is no disk")]
    [InlineData("67108865", "67108865 bytes are no multiple of 512")]
    [InlineData("+100", "67108964 bytes are no multiple of 512")]
    [InlineData("7E", "need too large an L1 table")]
    public void A_size_that_makes_no_sense_is_refused(string size, string message)
    {
        string image = NewImage();
        ProcessResult result = Run("resize", image, size);
        Assert.NotEqual(0, result.ExitCode);
        Assert.Contains(message, result.Error, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Space_is_not_preallocated_where_it_is_given_up()
    {
        string image = NewImage();
        byte[] before = File.ReadAllBytes(image);
        ProcessResult result = Run("resize", "--shrink", "--preallocation=full", image, "1M");
        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result, "--shrink and --preallocation exclude each other");
        Assert.Equal(before, File.ReadAllBytes(image));
    }

    [SkippableFact]
    public void A_version_2_image_with_snapshots_keeps_its_size()
    {
        QemuTools.RequireTool("qemu-img");
        string image = PathOf("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", image, "64M");
        QemuTools.Img("snapshot", "-c", "s", image);
        byte[] before = File.ReadAllBytes(image);
        ProcessResult result = Run("resize", image, "128M");
        Assert.Equal(1, result.ExitCode);
        Assert.Contains("a version 2 image with snapshots keeps its size", result.Error, StringComparison.Ordinal);
        Assert.Contains("hint: qemu-img amend -o compat=1.1", result.Error, StringComparison.Ordinal);
        Assert.Equal(before, File.ReadAllBytes(image));
    }

    private string NewImage()
    {
        QemuTools.RequireTool("qemu-img");
        string image = PathOf("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", image, "64M");
        QemuTools.Io(image, "write -P 1 512k 512k");
        return image;
    }
}
