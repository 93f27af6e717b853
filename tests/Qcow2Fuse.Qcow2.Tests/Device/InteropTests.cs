// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Images of QEMU's making, changed here, and judged by QEMU again.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class InteropTests
{
    private const int DiskBytes = 4 << 20;

    [SkippableTheory]
    [InlineData("compat=0.10", 1)]
    [InlineData("compat=1.1,cluster_size=512", 2)]
    [InlineData("compat=1.1,cluster_size=4k", 3)]
    [InlineData("compat=1.1", 4)]
    [InlineData("compat=1.1,lazy_refcounts=on", 5)]
    [InlineData("compat=1.1,cluster_size=2M", 6)]
    [InlineData("extended_l2=on,cluster_size=16k", 7)]
    [InlineData("extended_l2=on", 8)]
    [InlineData("preallocation=metadata", 9)]
    [InlineData("preallocation=full,extended_l2=on", 10)]
    public void Random_changes_leave_what_a_plain_array_holds(string options, int seed)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, image, "4M");
        QemuTools.Io(image, "write -P 1 0 1M", "write -P 2 1500k 300k", "write -z 100k 60k");
        byte[] model = QemuTools.ConvertToRaw(image);
        Change(image, model, seed);
        QemuTools.ShouldPassCheck(image);
        Assert.True(model.AsSpan().SequenceEqual(QemuTools.ConvertToRaw(image)), "QEMU reads other bytes");
    }

    [SkippableTheory]
    [InlineData("compat=0.10")]
    [InlineData("compat=1.1,cluster_size=4k")]
    [InlineData("extended_l2=on,cluster_size=16k")]
    public void Snapshots_keep_their_content(string options)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, image, "4M");
        QemuTools.Io(image, "write -P 1 0 1M", "write -P 2 3M 1M");
        byte[] model = QemuTools.ConvertToRaw(image);
        byte[] snapshot = [.. model];
        QemuTools.Img("snapshot", "-c", "before", image);

        Change(image, model, seed: 11);

        QemuTools.ShouldPassCheck(image);
        Assert.True(model.AsSpan().SequenceEqual(QemuTools.ConvertToRaw(image)), "the present differs");
        string old = directory.File("old.raw");
        QemuTools.Img("convert", "-l", "before", "-O", "raw", image, old);
        Assert.True(snapshot.AsSpan().SequenceEqual(File.ReadAllBytes(old)), "the snapshot has changed");
        QemuTools.Img("snapshot", "-d", "before", image);
        QemuTools.ShouldPassCheck(image);
    }

    [SkippableTheory]
    [InlineData("zlib", "64k")]
    [InlineData("zlib", "4k")]
    [InlineData("zstd", "64k")]
    [InlineData("zstd", "2M")]
    public void Compressed_clusters_are_overwritten(string compression, string clusterSize)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string raw = directory.File("source.raw");
        byte[] model = new byte[DiskBytes];
        for (int at = 0; at < DiskBytes; at += 64)
            Stamp.Bytes(at, 16, 3).CopyTo(model, at);
        File.WriteAllBytes(raw, model);
        string image = directory.File("image.qcow2");
        QemuTools.Img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
            $"compression_type={compression},cluster_size={clusterSize}", raw, image);
        Change(image, model, seed: 12);
        QemuTools.ShouldPassCheck(image);
        Assert.True(model.AsSpan().SequenceEqual(QemuTools.ConvertToRaw(image)), "QEMU reads other bytes");
    }

    [SkippableTheory]
    [InlineData("1", "64k")]
    [InlineData("2", "512")]
    [InlineData("4", "4k")]
    [InlineData("8", "2M")]
    [InlineData("32", "512")]
    [InlineData("64", "512")]
    [InlineData("64", "64k")]
    public void Images_with_other_refcount_widths_are_written(string bits, string clusterSize)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", $"refcount_bits={bits},cluster_size={clusterSize}", image,
            DiskBytes.ToString(CultureInfo.InvariantCulture));
        QemuTools.Io(image, "write -P 1 0 1M");
        byte[] model = QemuTools.ConvertToRaw(image);
        Change(image, model, seed: 21);
        QemuTools.ShouldPassCheck(image);
        Assert.True(model.AsSpan().SequenceEqual(QemuTools.ConvertToRaw(image)), "QEMU reads other bytes");
    }

    [SkippableTheory]
    [InlineData("16", 12)]
    [InlineData("64", 3)]
    public void The_refcount_table_grows_with_the_image(string bits, int megabytes)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", $"refcount_bits={bits},cluster_size=512", image, "40M");
        byte[] model = new byte[40 << 20];
        using (Qcow2Device device = Open(image, readOnly: false))
        {
            // More clusters than the table that qemu-img made can count, several times over.
            for (int at = 0; at < megabytes * 3 << 20; at += 1 << 20)
            {
                byte[] data = Stamp.Bytes(at, 1 << 20, 7);
                device.Write(at, data);
                data.CopyTo(model, at);
            }
        }

        QemuTools.ShouldPassCheck(image);
        Assert.True(model.AsSpan().SequenceEqual(QemuTools.ConvertToRaw(image)), "QEMU reads other bytes");
    }

    [SkippableFact]
    public void A_grown_disk_is_sound_and_hides_a_longer_backing_file()
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string backing = directory.File("backing.raw");
        File.WriteAllBytes(backing, Stamp.Bytes(0, 2 << 20, 8));
        string image = directory.File("image.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-b", backing, "-F", "raw", image, "1M");
        byte[] expected = new byte[64 << 20];
        Stamp.Bytes(0, 1 << 20, 8).CopyTo(expected, 0);
        FileDevice below = FileDevice.Open(backing, readOnly: true);
        using (Qcow2Device device = Qcow2Device.Open(
            FileDevice.Open(image, readOnly: false), new FormatOpenArguments { Backing = below }))
        {
            device.Resize(expected.Length);
            byte[] data = Stamp.Bytes(60 << 20, 10_000, 9);
            device.Write(60 << 20, data);
            data.CopyTo(expected, 60 << 20);
        }

        QemuTools.ShouldPassCheck(image);
        Assert.True(expected.AsSpan().SequenceEqual(QemuTools.ConvertToRaw(image)), "QEMU reads other bytes");
    }

    [SkippableFact]
    public void A_table_longer_than_a_refcount_block_counts_is_allocated()
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", "refcount_bits=64,cluster_size=512", image, "1M");
        using (Qcow2Device device = Open(image, readOnly: false))
        {
            // 1,024 clusters of L1 table, where a block counts 64.
            device.Resize(2L << 30);
            device.Write((2L << 30) - 512, Stamp.Bytes(0, 512, 5));
        }

        QemuTools.ShouldPassCheck(image);
        using Qcow2Device again = Open(image, readOnly: true);
        byte[] seen = new byte[512];
        again.Read((2L << 30) - 512, seen);
        Assert.Equal(Stamp.Bytes(0, 512, 5), seen);
    }

    /// <summary>300 random writes, zeroes, discards and flushes, made on the image and on an array alike.</summary>
    private static void Change(string image, byte[] model, int seed)
    {
        using Qcow2Device device = Open(image, readOnly: false);
        Change(device, model, seed);
    }

    /// <summary>300 random writes, zeroes, discards and flushes, made on the device and on an array alike.</summary>
    internal static void Change(Qcow2Device device, byte[] model, int seed)
    {
        SeededRandom random = new((ulong)seed);
        for (int i = 0; i < 300; i++)
        {
            int length = 1 + random.Below(i % 7 == 0 ? 400_000 : 9000);
            int offset = random.Below(model.Length - length);
            switch (random.Below(8))
            {
                case 0:
                    device.Flush();
                    break;
                case 1 or 2:
                    device.WriteZeroes(offset, length, mayUnmap: random.Below(2) == 0);
                    model.AsSpan(offset, length).Clear();
                    break;
                case 3:
                    device.Discard(offset, length);
                    device.Read(offset, model.AsSpan(offset, length));
                    break;
                default:
                    byte[] data = Stamp.Bytes(offset, length, (ulong)(100 + i));
                    device.Write(offset, data);
                    data.CopyTo(model, offset);
                    break;
            }
        }

        byte[] seen = new byte[model.Length];
        device.Read(0, seen);
        Assert.True(model.AsSpan().SequenceEqual(seen), "the engine reads other bytes than were written");
    }

    private static Qcow2Device Open(string image, bool readOnly) =>
        Qcow2Device.Open(FileDevice.Open(image, readOnly), new FormatOpenArguments { ReadOnly = readOnly });
}
