// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Encryption;
using Qcow2Fuse.Qcow2.Tests.Encryption;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Which requests the caller may do himself in the file.</summary>
public sealed class PlainRunTests : PlainRunFixture
{
    [Fact]
    public void Runs_of_data_are_told_and_everything_else_is_refused()
    {
        using Qcow2Device device = Create(Standard);
        ShouldRefuse(device, 0, 4096);
        device.Write(0, Stamp.Bytes(0, 4 * Cluster, 1));
        ShouldReach(device, 0, 4 * Cluster);
        ShouldReach(device, 12345, 100_000);
        ShouldReach(device, (4 * Cluster) - 1, 1);
        ShouldRefuse(device, (4 * Cluster) - 1, 2);
        ShouldRefuse(device, Disk - 4096, 8192);
        ShouldRefuse(device, -1, 1);
        ShouldRefuse(device, 0, 0);
        device.WriteZeroes(Cluster, Cluster, mayUnmap: false);
        ShouldRefuse(device, Cluster, 4096);
        ShouldRefuse(device, Cluster - 4096, 8192);
        ShouldReach(device, 0, Cluster);
        device.Discard(0, Cluster);
        ShouldRefuse(device, 0, 4096);
    }

    [Fact]
    public void Zeroes_are_told_without_a_file_and_are_not_written()
    {
        string below = Files.File("below.raw");
        File.WriteAllBytes(below, Stamp.Bytes(0, 2 * Cluster, 3));
        using (FileDevice file = FileDevice.Create(ImagePath))
            Qcow2Creator.Create(file, Standard with { BackingFile = below });
        using Qcow2Device device = Qcow2Device.Open(
            FileDevice.Open(ImagePath), new FormatOpenArguments { Backing = FileDevice.Open(below, readOnly: true) });
        device.Write(5 * Cluster, Stamp.Bytes(0, Cluster, 1));
        device.WriteZeroes(0, Cluster, mayUnmap: false);
        ShouldBeZero(device, 0, Cluster);
        ShouldBeZero(device, 2 * Cluster, 3 * Cluster);
        Assert.True(Begins(device, Cluster, 4096, isWrite: false));
        Assert.False(device.TryBeginPlain(Cluster - 4096, 8192, isWrite: false, out _));
        Assert.False(device.TryBeginPlain((2 * Cluster) - 4096, 8192, isWrite: false, out _));
        Assert.False(device.TryBeginPlain((5 * Cluster) - 4096, 8192, isWrite: false, out _));
        Assert.False(device.TryBeginPlain(0, 4096, isWrite: true, out _));
    }

    private static void ShouldBeZero(BlockDevice device, long offset, int length)
    {
        Assert.True(device.TryBeginPlain(offset, length, isWrite: false, out PlainRun run));
        Assert.Equal(PlainRunKind.Zeroes, run.Kind);
        device.EndPlain(run);
    }

    [Fact]
    public void Clusters_that_do_not_lie_in_a_row_are_no_run()
    {
        using Qcow2Device device = Create(Standard);
        device.Write(Cluster, Stamp.Bytes(Cluster, Cluster, 1));
        device.Write(0, Stamp.Bytes(0, Cluster, 1));
        ShouldRefuse(device, Cluster - 4096, 8192);
        ShouldReach(device, Cluster - 4096, 4096);
        ShouldReach(device, Cluster, 4096);
    }

    [Fact]
    public void A_table_that_is_not_in_memory_is_not_loaded_and_the_first_write_is_no_transfer()
    {
        Create(Standard, device => device.Write(0, Stamp.Bytes(0, Cluster, 1)));
        using Qcow2Device device = Open();
        ShouldRefuse(device, 0, 4096);
        Assert.Equal(0, device.Statistics.L2.Misses);
        device.Read(0, new byte[4096]);
        Assert.True(Begins(device, 0, 4096, isWrite: false));
        Assert.False(Begins(device, 0, 4096, isWrite: true));
        device.Write(0, Stamp.Bytes(0, 4096, 1));
        ShouldReach(device, 0, Cluster);
    }

    [Fact]
    public void Subclusters_are_told_apart()
    {
        using Qcow2Device device = Create(Standard with { ExtendedL2 = true });
        device.Write(2048, Stamp.Bytes(2048, 4096, 1));
        ShouldReach(device, 2048, 4096);
        ShouldRefuse(device, 0, 4096);
        ShouldRefuse(device, 4096, 4096);
    }

    [Fact]
    public void What_is_read_only_is_only_read()
    {
        Create(Standard, device => device.Write(0, Stamp.Bytes(0, Cluster, 1)));
        using Qcow2Device device = Open(readOnly: true);
        device.Read(0, new byte[1]);
        Assert.True(Begins(device, 0, 4096, isWrite: false));
        Assert.False(Begins(device, 0, 4096, isWrite: true));
    }

    [SkippableTheory]
    [InlineData("aes")]
    [InlineData("xts-plain64")]
    public void Encrypted_data_is_refused(string kind)
    {
        EncryptionOptions encryption = EncryptedImages.Of(kind);
        using (FileDevice file = FileDevice.Create(ImagePath))
            Qcow2Creator.Create(file, Standard with { Encryption = encryption });
        using Qcow2Device device = Qcow2Device.Open(
            FileDevice.Open(ImagePath), new FormatOpenArguments { Secrets = encryption.Secrets });
        device.Write(0, new byte[Cluster]);
        ShouldRefuse(device, 0, 4096);
    }

    [SkippableFact]
    public void Compressed_clusters_and_gathered_writes_are_refused()
    {
        QemuTools.RequireTool("qemu-img");
        File.WriteAllBytes(Files.File("raw"), new byte[Disk].Select(static (_, i) => (byte)(i >> 12)).ToArray());
        QemuTools.Img("convert", "-c", "-f", "raw", "-O", "qcow2", Files.File("raw"), ImagePath);
        using (Qcow2Device device = Open())
        {
            device.Read(0, new byte[4096]);
            ShouldRefuse(device, 0, 4096);
            device.Write(0, Stamp.Bytes(0, Cluster, 1));
            ShouldReach(device, 0, Cluster);
            ShouldRefuse(device, Cluster, 4096);
        }

        using Qcow2Device compressing = Qcow2Device.Open(
            FileDevice.Open(ImagePath), new FormatOpenArguments { Compress = CompressedWrites.Zlib });
        compressing.Read(0, new byte[4096]);
        compressing.Write(2 * Cluster, new byte[10]);
        ShouldRefuse(compressing, 0, 4096);
    }

    [Fact]
    public void What_a_snapshot_shares_is_only_read()
    {
        using Qcow2Device device = Create(Standard);
        device.Write(0, Stamp.Bytes(0, 2 * Cluster, 1));
        device.CreateSnapshot("s");
        device.Write(Cluster, Stamp.Bytes(Cluster, Cluster, 2));
        Assert.True(Begins(device, 0, 4096, isWrite: false));
        Assert.False(Begins(device, 0, 4096, isWrite: true));
        ShouldReach(device, Cluster, Cluster);
        device.ApplySnapshot("s");
        byte[] seen = new byte[2 * Cluster];
        device.Read(0, seen);
        Assert.Equal(Stamp.Bytes(0, 2 * Cluster, 1), seen);
    }

    [Fact]
    public void Reads_reach_through_to_the_backing_file()
    {
        string below = Files.File("below.qcow2");
        using (FileDevice file = FileDevice.Create(below))
            Qcow2Creator.Create(file, Standard);
        using (Qcow2Device lower = Qcow2Device.Open(FileDevice.Open(below), new FormatOpenArguments()))
            lower.Write(0, Stamp.Bytes(0, 2 * Cluster, 1));
        using (FileDevice file = FileDevice.Create(ImagePath))
            Qcow2Creator.Create(file, Standard with { BackingFile = below });
        Qcow2Device backing = Qcow2Device.Open(
            FileDevice.Open(below, readOnly: true), new FormatOpenArguments { ReadOnly = true });
        using Qcow2Device device = Qcow2Device.Open(
            FileDevice.Open(ImagePath), new FormatOpenArguments { Backing = backing });
        device.Write(Cluster, Stamp.Bytes(Cluster, 4096, 2));
        backing.Read(0, new byte[1]);
        ShouldRead(device, 0, Stamp.Bytes(0, Cluster, 1));
        ShouldRead(device, Cluster, Stamp.Bytes(Cluster, 4096, 2));
        Assert.False(Begins(device, 0, 4096, isWrite: true));
        Assert.False(Begins(device, Cluster - 4096, 8192, isWrite: false));
    }

    [SkippableTheory]
    [InlineData("data_file_raw=off")]
    [InlineData("data_file_raw=on")]
    public void An_external_data_file_is_reached(string options)
    {
        QemuTools.RequireTool("qemu-img");
        string data = Files.File("data.raw");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", $"data_file={data},{options}", ImagePath, "4M");
        using (Qcow2Device device = Qcow2Device.Open(
            FileDevice.Open(ImagePath), new FormatOpenArguments { DataFile = FileDevice.Open(data) }))
        {
            device.Write(0, Stamp.Bytes(0, 2 * Cluster, 1));
            ShouldReach(device, 0, 2 * Cluster);
        }

        QemuTools.ShouldPassCheck(ImagePath);
        Assert.Equal(Stamp.Bytes(0, 2 * Cluster, 9), File.ReadAllBytes(data)[..(2 * Cluster)]);
    }

    [Fact]
    public void Bitmaps_record_overwrites()
    {
        Create(Standard, device =>
        {
            device.Write(0, Stamp.Bytes(0, 4 * Cluster, 1));
            device.AddBitmap("b", Cluster, enabled: true);
            ShouldReach(device, Cluster, 4096);
        });
        bool[] expected = new bool[Disk / Cluster];
        expected[1] = true;
        using FileImage image = new(ImagePath);
        Assert.Equal(expected, Assert.Single(PlainBitmaps.Read(new PlainReader(image))).Bits);
    }

    [Theory]
    [InlineData(512, false)]
    [InlineData(-1, true)]
    public void Damaged_entries_are_refused(long patch, bool reads)
    {
        Create(Standard, device => device.Write(0, Stamp.Bytes(0, 2 * Cluster, 1)));
        using (FileStream file = new(ImagePath, FileMode.Open))
        {
            long l1 = (long)ReadEntry(file, 40);
            long l2 = (long)ReadEntry(file, l1) & 0xFFFFFFFFFFFE00;
            ulong entry = ReadEntry(file, l2);
            WriteEntry(file, l2, patch < 0 ? (1ul << 63) | (ulong)l2 : entry | (ulong)patch);
        }

        using Qcow2Device device = Open();
        device.Write(Cluster, Stamp.Bytes(Cluster, Cluster, 1));
        Assert.Equal(reads, Begins(device, 0, 4096, isWrite: false));
        Assert.False(Begins(device, 0, 4096, isWrite: true));
        ShouldReach(device, Cluster, Cluster);
        BlockException refused = Assert.Throws<BlockException>(() => device.Write(0, new byte[10]));
        Assert.Equal(BlockErrorKind.Corrupt, refused.Kind);
        Assert.Equal(refused.IsContained, Begins(device, Cluster, 4096, isWrite: true));
    }

    [Theory]
    [InlineData(4096, true)]
    [InlineData(512, false)]
    public void With_direct_io_only_what_is_aligned_and_shares_no_block_with_tables(int cluster, bool writes)
    {
        using (FileDevice made = FileDevice.Create(ImagePath))
            Qcow2Creator.Create(made, Standard with { ClusterSize = cluster });
        using Qcow2Device device = Qcow2Device.Open(
            FileDevice.Open(ImagePath, direct: true), new FormatOpenArguments());
        device.Write(0, Stamp.Bytes(0, 4096, 1));
        writes |= BlockOf(ImagePath) <= cluster;
        Assert.Equal(writes, Begins(device, 0, 4096, isWrite: true));
        Assert.False(Begins(device, 1, 511, isWrite: false));
        Assert.False(Begins(device, 1, 511, isWrite: true));
    }

    private static int BlockOf(string path)
    {
        using FileDevice file = FileDevice.Open(path, readOnly: true, direct: true);
        return file.Limits.RequestAlignment;
    }

    private static ulong ReadEntry(FileStream file, long offset)
    {
        byte[] bytes = new byte[8];
        file.Position = offset;
        file.ReadExactly(bytes);
        return BinaryPrimitives.ReadUInt64BigEndian(bytes);
    }

    private static void WriteEntry(FileStream file, long offset, ulong entry)
    {
        byte[] bytes = new byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(bytes, entry);
        file.Position = offset;
        file.Write(bytes);
    }
}
