// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Stacks;

/// <summary>What was named is what is opened, and devices are as large as what they show.</summary>
public sealed class NamedDeviceTests : StackTest
{
    private const int LargeSector = 4096;
    private const int DiskBytes = 64 << 20;

    [SkippableFact]
    public void A_loop_device_that_was_named_is_a_limit_for_the_image_on_it()
    {
        RequireLoopDevices();
        string file = PathOf("device");
        using (FileStream made = File.Create(file))
            made.SetLength(8 << 20);
        string device = Tool("losetup", "-f", "--show", file).Trim();
        try
        {
            QemuTools.Img("create", "-q", "-f", "qcow2", device, "64M");
            string mountPoint = NewMountPoint();
            ProcessResult mounted = Run("mount", device, mountPoint).ShouldSucceed();
            Assert.Equal("", mounted.Error);
            string raw = Path.Combine(mountPoint, Path.GetFileName(device) + ".raw");
            ProcessResult written = TryTool(
                "dd", "if=/dev/urandom", "of=" + raw, "bs=1M", "count=16", "conv=notrunc,fsync", "status=none");
            Assert.NotEqual(0, written.ExitCode);
            Assert.Contains("No space left on device", written.Error, StringComparison.Ordinal);
            TryTool("umount", mountPoint);
            WaitUntil(() => DaemonsOf(mountPoint).Count == 0, "the daemon does not end");
            Assert.Equal(8 << 20, new FileInfo(file).Length);
            QemuTools.ShouldPassCheck(device);
        }
        finally
        {
            TryTool("losetup", "-d", device);
        }
    }

    [SkippableFact]
    public void An_image_whose_device_somebody_else_took_away_is_free()
    {
        RequireLoopDevices();
        string image = NewImage();
        string device = Run("attach", image).ShouldSucceed().Output.Trim();
        string mountPoint = Assert.Single(MountPointsOf(image));
        Tool("losetup", "-d", device);
        WaitUntil(() => MountPointsOf(image).Count == 0, "the image stays mounted");
        WaitUntil(() => DaemonsOf(mountPoint).Count == 0, "the daemon does not end");
        Run("snapshot", "-c", "one", image).ShouldSucceed();
        ShouldBeGone(image, mountPoint);
    }

    /// <summary>Nothing tells the daemon when he goes.</summary>
    [SkippableFact]
    public void An_image_whose_device_was_taken_away_is_free_when_whoever_stands_in_its_mount_has_left()
    {
        RequireLoopDevices();
        string image = NewImage();
        string device = Run("attach", image).ShouldSucceed().Output.Trim();
        string mountPoint = Assert.Single(MountPointsOf(image));
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        using (RunningProcess user = RunningProcess.Start("sh", ["-c", "cd \"$1\"; echo in; read x", "sh", mountPoint]))
        {
            Assert.Equal("in", user.ReadLine());
            Tool("losetup", "-d", device);
            WaitUntil(() => LoopsIn(mountPoint).Count == 0, "the device stays");

            // It has tried, and could not.
            Eventually.Sleeps(daemon);
            Assert.Single(MountPointsOf(image));
        }

        WaitUntil(() => MountPointsOf(image).Count == 0, "the image stays mounted");
        WaitUntil(() => DaemonsOf(mountPoint).Count == 0, "the daemon does not end");
        ShouldBeGone(image, mountPoint);
    }

    [SkippableTheory]
    [InlineData("", 4096)]
    [InlineData("sector_size=512", 512)]
    public void A_table_of_large_sectors_has_a_device_of_large_sectors(string options, int expected)
    {
        RequireLoopDevices();
        QemuTools.RequireTool("qemu-img");
        File.WriteAllBytes(PathOf("disk.img"), DiskWithLargeSectors());
        QemuTools.Img("convert", "-f", "raw", "-O", "qcow2", PathOf("disk.img"), PathOf("disk.qcow2"));
        string[] words = options.Length > 0 ? ["-o", options] : [];
        string device = Run(["attach", .. words, PathOf("disk.qcow2")]).ShouldSucceed().Output.Trim();
        string queue = $"/sys/block/{Path.GetFileName(device)}/queue/logical_block_size";
        Assert.Equal($"{expected}\n", File.ReadAllText(queue));
        Run("detach", device).ShouldSucceed();
    }

    [SkippableFact]
    public void A_container_without_the_device_file_is_told_how_to_make_it()
    {
        RequireLoopDevices();
        string image = NewImage();
        const string script = "mount -t tmpfs none /dev && mknod /dev/fuse c 10 229 && mknod /dev/null c 1 3 "
            + "&& mknod /dev/loop-control c 10 237 && exec \"$0\" attach \"$1\"";
        ProcessResult result = TryTool("unshare", "-m", "sh", "-c", script, FindProgram()!, image);
        Assert.Equal((1, ""), (result.ExitCode, result.Output));
        Assert.Matches(
            "^qcow2fuse: /dev/loop([0-9]+) is missing\nhint: in a container: mknod /dev/loop\\1 b 7 \\1\n$",
            result.Error);
        Assert.Empty(MountPointsOf(image));
    }

    [SkippableFact]
    public void Bytes_that_are_no_sector_are_not_dropped_without_a_word()
    {
        RequireLoopDevices();
        string image = PathOf("odd.raw");
        File.WriteAllBytes(image, new byte[LargeSector + 100]);
        ProcessResult attached = Run("attach", "-o", "format=raw", image).ShouldSucceed();
        Run("detach", attached.Output.Trim()).ShouldSucceed();
        Assert.Equal(
            $"qcow2fuse: warning: {image}: the last 100 bytes are no whole sector of 512, and not on the device\n",
            attached.Error);
    }

    /// <summary>A GPT without partitions, which is found in sectors of 4096 bytes alone.</summary>
    private static byte[] DiskWithLargeSectors()
    {
        byte[] disk = new byte[DiskBytes];
        disk[446 + 4] = 0xEE;
        BinaryPrimitives.WriteUInt32LittleEndian(disk.AsSpan(446 + 8), 1);
        BinaryPrimitives.WriteUInt32LittleEndian(disk.AsSpan(446 + 12), (DiskBytes / LargeSector) - 1);
        disk[510] = 0x55;
        disk[511] = 0xAA;
        Span<byte> header = disk.AsSpan(LargeSector, 92);
        "EFI PART"u8.CopyTo(header);
        BinaryPrimitives.WriteUInt32LittleEndian(header[8..], 0x10000);
        BinaryPrimitives.WriteUInt32LittleEndian(header[12..], 92);
        BinaryPrimitives.WriteUInt64LittleEndian(header[24..], 1);
        BinaryPrimitives.WriteUInt64LittleEndian(header[32..], (DiskBytes / LargeSector) - 1);
        BinaryPrimitives.WriteUInt64LittleEndian(header[40..], 6);
        BinaryPrimitives.WriteUInt64LittleEndian(header[48..], (DiskBytes / LargeSector) - 6);
        BinaryPrimitives.WriteUInt64LittleEndian(header[72..], 2);
        BinaryPrimitives.WriteUInt32LittleEndian(header[80..], 128);
        BinaryPrimitives.WriteUInt32LittleEndian(header[84..], 128);
        BinaryPrimitives.WriteUInt32LittleEndian(header[88..], Checksum(disk.AsSpan(2 * LargeSector, 128 * 128)));
        BinaryPrimitives.WriteUInt32LittleEndian(header[16..], Checksum(header));
        return disk;
    }

    private static uint Checksum(ReadOnlySpan<byte> bytes)
    {
        uint sum = uint.MaxValue;
        foreach (byte one in bytes)
        {
            sum ^= one;
            for (int bit = 0; bit < 8; bit++)
                sum = (sum >> 1) ^ ((sum & 1) != 0 ? 0xEDB88320u : 0);
        }

        return ~sum;
    }
}
