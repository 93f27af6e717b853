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
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Which requests the caller may do himself in the file, and what keeps clusters where they are.</summary>
public sealed class PlainRunTests : IDisposable
{
    private const int Cluster = 65536;
    private const int Disk = 4 << 20;
    private static readonly TimeSpan Patience = Eventually.Patience;
    private static readonly Qcow2CreateOptions Standard = new() { Size = Disk };

    private readonly TempDirectory _directory = new();

    private string ImagePath => _directory.File("image.qcow2");

    public void Dispose() => _directory.Dispose();

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
        string below = _directory.File("below.raw");
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
        File.WriteAllBytes(_directory.File("raw"), new byte[Disk].Select(static (_, i) => (byte)(i >> 12)).ToArray());
        QemuTools.Img("convert", "-c", "-f", "raw", "-O", "qcow2", _directory.File("raw"), ImagePath);
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
        string below = _directory.File("below.qcow2");
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
        string data = _directory.File("data.raw");
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
    [InlineData(false)]
    [InlineData(true)]
    public void A_discarded_cluster_is_not_used_again_before_the_transfer_has_ended(bool isWrite)
    {
        using Qcow2Device device = Create(Standard);
        device.Write(0, Stamp.Bytes(0, Cluster, 1));
        Assert.True(device.TryBeginPlain(0, 4096, isWrite, out PlainRun run));
        device.Discard(0, Cluster);
        for (int i = 1; i < 8; i++)
        {
            device.Flush();
            device.Write(i * Cluster, Stamp.Bytes(i * Cluster, Cluster, 2));
            Assert.NotEqual(run.Offset, device.GetExtent(i * Cluster, 1).HostOffset);
        }

        device.EndPlain(run);
        device.Flush();
        device.Flush();
        device.Write(20 * Cluster, Stamp.Bytes(20 * Cluster, Cluster, 2));
        Assert.Equal(run.Offset, device.GetExtent(20 * Cluster, 1).HostOffset);
    }

    [Fact]
    public void A_snapshot_waits_for_transfers_and_lets_no_write_begin()
    {
        using Qcow2Device device = Create(Standard);
        device.Write(0, Stamp.Bytes(0, 2 * Cluster, 1));
        Assert.True(device.TryBeginPlain(0, Cluster, isWrite: true, out PlainRun run));
        TestThread snapshot = TestThread.Start(() => device.CreateSnapshot("s"));
        Eventually.Holds(() => !Begins(device, Cluster, 4096, isWrite: true));
        snapshot.ShouldWait("a transfer is under way");
        byte[] late = Stamp.Bytes(0, Cluster, 7);
        PlainAccess.Move(run, late, destination: []);
        device.EndPlain(run);
        snapshot.ShouldEnd();
        using BlockDevice view = device.OpenSnapshot("s");
        byte[] seen = new byte[Cluster];
        view.Read(0, seen);
        Assert.Equal(late, seen);
    }

    [Fact]
    public void An_allocation_under_way_keeps_overwrites_away_where_it_writes()
    {
        using (FileDevice made = FileDevice.Create(ImagePath))
            Qcow2Creator.Create(made, Standard with { ExtendedL2 = true });
        HoldingDevice file = new(FileDevice.Open(ImagePath));
        using Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments());
        device.Write(0, Stamp.Bytes(0, 4096, 1));
        Assert.True(Begins(device, 0, 2048, isWrite: true));
        using ManualResetEventSlim gate = new();
        using ManualResetEventSlim reached = new();
        file.BeforeWrite = () =>
        {
            reached.Set();
            gate.Wait(Patience);
        };
        Task writer = Task.Run(() => device.Write(2048, Stamp.Bytes(2048, 4096, 2)));
        Assert.True(reached.Wait(Patience));
        Assert.True(Begins(device, 0, 2048, isWrite: true));
        Assert.False(Begins(device, 2048, 2048, isWrite: true));
        Assert.True(Begins(device, 2048, 2048, isWrite: false));
        file.BeforeWrite = null;
        gate.Set();
        Assert.True(writer.Wait(Patience));
        Assert.True(Begins(device, 2048, 4096, isWrite: true));
    }

    [Fact]
    public void After_a_failed_flush_nothing_is_written()
    {
        using (FileDevice made = FileDevice.Create(ImagePath))
            Qcow2Creator.Create(made, Standard);
        HoldingDevice file = new(FileDevice.Open(ImagePath));
        using Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments());
        device.Write(0, Stamp.Bytes(0, Cluster, 1));
        file.FailsFlush = true;
        Assert.Throws<BlockException>(device.Flush);
        Assert.True(Begins(device, 0, 4096, isWrite: false));
        Assert.False(Begins(device, 0, 4096, isWrite: true));
    }

    /// <summary>An entry that is no good is left to the request that comes the other way and says what is wrong.
    /// </summary>
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

    [Fact]
    public void Nothing_is_allocated()
    {
        using Qcow2Device device = Create(Standard);
        device.Write(0, Stamp.Bytes(0, 4 * Cluster, 1));
        Rounds(device, 1000);
        Assert.Equal(0, ManagedAllocation.Of(() => Rounds(device, 1000)));
    }

    private static void Rounds(Qcow2Device device, int rounds)
    {
        for (int i = 0; i < rounds; i++)
        {
            bool begun = device.TryBeginPlain(4096L * (i % 64), 4096, isWrite: i % 2 == 0, out PlainRun run);
            if (!begun)
                throw new InvalidOperationException("refused");
            device.EndPlain(run);
        }
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

    /// <summary>Whether the range is a run in a file.</summary>
    private static bool Begins(BlockDevice device, long offset, int length, bool isWrite)
    {
        if (!device.TryBeginPlain(offset, length, isWrite, out PlainRun run))
            return false;
        device.EndPlain(run);
        return run.Kind != PlainRunKind.Zeroes;
    }

    private static void ShouldRefuse(BlockDevice device, long offset, int length)
    {
        Assert.False(Begins(device, offset, length, isWrite: false), $"read of {length} at {offset}");
        Assert.False(Begins(device, offset, length, isWrite: true), $"write of {length} at {offset}");
    }

    private static void ShouldRead(BlockDevice device, long offset, byte[] expected)
    {
        byte[] seen = new byte[expected.Length];
        Assert.True(device.TryBeginPlain(offset, seen.Length, isWrite: false, out PlainRun run));
        PlainAccess.Move(run, source: [], seen);
        device.EndPlain(run);
        Assert.Equal(expected, seen);
    }

    /// <summary>Writes and reads the range as transfers, and compares with the usual way.</summary>
    private static void ShouldReach(BlockDevice device, long offset, int length)
    {
        byte[] data = Stamp.Bytes(offset, length, 9);
        Assert.True(device.TryBeginPlain(offset, length, isWrite: true, out PlainRun run));
        PlainAccess.Move(run, data, destination: []);
        device.EndPlain(run);
        byte[] seen = new byte[length];
        device.Read(offset, seen);
        Assert.Equal(data, seen);
        ShouldRead(device, offset, data);
    }

    private Qcow2Device Create(Qcow2CreateOptions options)
    {
        using (FileDevice file = FileDevice.Create(ImagePath))
            Qcow2Creator.Create(file, options);
        return Open();
    }

    private void Create(Qcow2CreateOptions options, Action<Qcow2Device> use)
    {
        using Qcow2Device device = Create(options);
        use(device);
    }

    private Qcow2Device Open(bool readOnly = false) => Qcow2Device.Open(
        FileDevice.Open(ImagePath, readOnly), new FormatOpenArguments { ReadOnly = readOnly });

    /// <summary>A file whose writes wait for a test, and whose flushes fail when it says so.</summary>
    private sealed class HoldingDevice(FileDevice file) : PassThroughDevice(file)
    {
        public Action? BeforeWrite { get; set; }

        public bool FailsFlush { get; set; }

        public override void Write(long offset, ReadOnlySpan<byte> source)
        {
            BeforeWrite?.Invoke();
            base.Write(offset, source);
        }

        public override void Flush()
        {
            if (FailsFlush)
                throw new BlockException(BlockErrorKind.Io, "a flush that fails");
            base.Flush();
        }

        public override bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run) =>
            Child.TryBeginPlain(offset, length, isWrite, out run);

        public override void EndPlain(in PlainRun run) => Child.EndPlain(run);
    }
}
