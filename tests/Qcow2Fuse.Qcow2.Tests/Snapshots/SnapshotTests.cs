// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Snapshots;

public sealed class SnapshotTests
{
    /// <summary>The refcount widths with which images can be written and snapshots be made.</summary>
    private static readonly int[] RefcountWidths = [1, 2, 4, 8, 16, 32, 64];

    public static TheoryData<int, int, bool, int> Kinds()
    {
        var kinds = new TheoryData<int, int, bool, int>();
        foreach (int clusterSize in (int[])[512, 4096, 65536, 2 << 20])
        {
            kinds.Add(2, clusterSize, false, 16);
            foreach (int bits in clusterSize > 4096 ? [16] : RefcountWidths)
            {
                kinds.Add(3, clusterSize, false, bits);
                if (clusterSize >= 65536)
                    kinds.Add(3, clusterSize, true, bits);
            }
        }

        return kinds;
    }

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    [Trait(Speed.Name, Speed.Slow)]
    public void A_snapshot_keeps_what_the_disk_held(int version, int clusterSize, bool extendedL2, int bits)
    {
        if (bits == 1)
        {
            OneBitRefusesSnapshots(version, clusterSize);
            return;
        }

        foreach (bool withBacking in (bool[])[false, true])
        {
            using SnapshotRun run = new(
                1, version, clusterSize, extendedL2, withBacking, compressed: bits == 16, refcountBits: bits);
            int unit = Math.Min(clusterSize, 65536);
            run.Write(unit / 2, unit * 3);
            run.Check();
            run.Create();
            run.Check();
            run.ShouldPassQemu();
            run.Write(unit, unit * 2);
            run.Device.WriteZeroes(unit * 5, unit, mayUnmap: false);
            run.Disk.AsSpan(unit * 5, unit).Clear();
            run.Check();
            run.Create();
            run.Write(0, run.Disk.Length);
            run.Check();
            run.ShouldPassQemu();
            run.Apply("1");
            run.Check();
            run.ShouldPassQemu();
            run.Write(100, unit * 4);
            run.Check();
            run.Delete("1");
            run.Check();
            run.ShouldPassQemu();
            run.Delete("2");
            run.Check();
            run.ShouldPassQemu();
            run.Write(0, run.Disk.Length);
            run.Check();
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    [Trait(Speed.Name, Speed.Slow)]
    public void Random_operations_agree_with_a_model(int version, int clusterSize, bool extendedL2, int bits)
    {
        for (ulong seed = 1; seed <= (clusterSize > 65536 ? 3UL : 8UL); seed++)
        {
            using SnapshotRun run = new(
                seed, version, clusterSize, extendedL2, withBacking: seed % 2 == 0,
                compressed: seed % 3 == 0 && bits == 16, refcountBits: bits);
            for (int i = 0; i < 120; i++)
            {
                run.Step();
                if (i % 8 == 7)
                    run.Check();
            }

            run.Check();
            run.ShouldPassQemu();
        }
    }

    /// <summary>With discard=no-unref a discarded cluster stays where it is, unless a snapshot has it.</summary>
    [Theory]
    [InlineData(4096, false, false)]
    [InlineData(4096, false, true)]
    [InlineData(16384, true, false)]
    [InlineData(16384, true, true)]
    public void What_a_snapshot_has_is_not_given_back_to_the_host(int clusterSize, bool extendedL2, bool discardsTwice)
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 64 * clusterSize, ClusterSize = clusterSize, ExtendedL2 = extendedL2 },
            backing: null,
            new FormatOpenArguments { Discard = DiscardMode.NoUnref });
        var device = (Qcow2Device)image.Device;
        image.Write(0, 8 * clusterSize, tag: 1).Device.Flush();
        if (discardsTwice)
        {
            // The first discard waits for the next flush, by which the snapshot has the cluster.
            device.Discard(0, 4 * clusterSize);
            image.Write(0, 4 * clusterSize, tag: 1);
        }

        device.CreateSnapshot("one");
        if (discardsTwice)
            device.WriteZeroes(0, 4 * clusterSize, mayUnmap: false);
        else
            device.Discard(clusterSize / 2, 4 * clusterSize);
        device.Flush();
        image.Reopen().Write(2 * clusterSize, clusterSize, tag: 3).Device.Flush();
        using BlockDevice snapshot = ((Qcow2Device)image.Device).OpenSnapshot("one");
        DeviceHolds(snapshot, tag: 1, length: 8 * clusterSize);
        image.ShouldPassCheck();
    }

    [Fact]
    public void A_snapshot_has_its_own_size()
    {
        using TestImage image = TestImage.Create(version: 3, clusterSize: 4096, extendedL2: false);
        var device = (Qcow2Device)image.Device;
        long small = device.Length;
        image.Write(0, (int)small, tag: 1);
        device.CreateSnapshot("small");
        device.Resize(16 << 20);
        image.Write(0, 16 << 20, tag: 2);
        device.CreateSnapshot("large");
        using (BlockDevice before = device.OpenSnapshot("small"))
        using (BlockDevice after = device.OpenSnapshot("large"))
        {
            Assert.Equal(small, before.Length);
            DeviceHolds(before, tag: 1);
            Assert.Equal(16 << 20, after.Length);
            DeviceHolds(after, tag: 2);
            device.ApplySnapshot("small");
            Assert.Equal(small, device.Length);
            image.ShouldRead(0, (int)small, tag: 1);
            DeviceHolds(before, tag: 1);
            DeviceHolds(after, tag: 2);
        }

        image.ShouldPassCheck().Reopen();
        Assert.Equal(small, image.Device.Length);
        ((Qcow2Device)image.Device).ApplySnapshot("large");
        Assert.Equal(16 << 20, image.Device.Length);
        image.ShouldRead(0, 16 << 20, tag: 2).ShouldPassCheck();
    }

    [Fact]
    public void An_open_snapshot_is_not_deleted()
    {
        using TestImage image = TestImage.Create(version: 3, clusterSize: 4096, extendedL2: false);
        var device = (Qcow2Device)image.Device;
        image.Write(0, 4096, tag: 1);
        device.CreateSnapshot("one");
        using (BlockDevice first = device.OpenSnapshot("1"))
        {
            using (device.OpenSnapshot("one"))
                image.Write(0, 4096, tag: 2);
            BlockException refused = Assert.Throws<BlockException>(() => device.DeleteSnapshot("one"));
            Assert.Equal(BlockErrorKind.Locked, refused.Kind);
            DeviceHolds(first, tag: 1, length: 4096);
            Assert.True(first.IsReadOnly);
            BlockException readOnly = Assert.Throws<BlockException>(() => first.Write(0, new byte[1]));
            Assert.Equal(BlockErrorKind.ReadOnly, readOnly.Kind);
        }

        device.DeleteSnapshot("one");
        Assert.Empty(device.Snapshots);
        image.ShouldRead(0, 4096, tag: 2).ShouldPassCheck();
    }

    [Fact]
    public void An_id_goes_before_a_name_and_names_may_be_equal()
    {
        using TestImage image = TestImage.Create(version: 3, clusterSize: 4096, extendedL2: false);
        var device = (Qcow2Device)image.Device;
        Assert.Equal("1", device.CreateSnapshot("2").Id);
        Assert.Equal("2", device.CreateSnapshot("same").Id);
        Assert.Equal("3", device.CreateSnapshot("same").Id);
        device.DeleteSnapshot("2");
        Assert.Equal(["1", "3"], device.Snapshots.Select(static s => s.Id));
        device.DeleteSnapshot("same");
        device.DeleteSnapshot("2");
        Assert.Empty(device.Snapshots);
        Assert.Equal("1", device.CreateSnapshot("again").Id);
        Assert.Equal(
            BlockErrorKind.NotFound, Assert.Throws<BlockException>(() => device.ApplySnapshot("none")).Kind);
        Assert.Equal(
            BlockErrorKind.NotFound, Assert.Throws<BlockException>(() => device.DeleteSnapshot("none")).Kind);
        Assert.Equal(
            BlockErrorKind.NotFound, Assert.Throws<BlockException>(() => device.OpenSnapshot("none")).Kind);
        image.ShouldPassCheck();
    }

    [Fact]
    public void A_name_of_255_bytes_is_the_longest()
    {
        using TestImage image = TestImage.Create(version: 3, clusterSize: 512, extendedL2: false);
        var device = (Qcow2Device)image.Device;
        string longest = new('n', 255);
        Assert.Equal(longest, device.CreateSnapshot(longest).Name);
        BlockException refused = Assert.Throws<BlockException>(() => device.CreateSnapshot(longest + "n"));
        Assert.Equal(BlockErrorKind.TooLarge, refused.Kind);
        image.ShouldPassCheck();
    }

    [Fact]
    public void Unknown_extra_data_stays()
    {
        using TestImage image = TestImage.Create(version: 3, clusterSize: 4096, extendedL2: false);
        var device = (Qcow2Device)image.Device;
        image.Write(0, 8192, tag: 1);
        device.CreateSnapshot("one");
        image.Close();

        // The entry is 64 bytes and 4 of id and name; with 64 bytes of extra data these move 40 bytes behind.
        long table = (long)image.PeekBigEndian(64);
        image.Poke(table + 36, 64, bytes: 4);
        for (int i = 24; i < 64; i += 8)
            image.Poke(table + 40 + i, 0xa0a1a2a3a4a5a600 + (ulong)i);
        image.Poke(table + 104, 0x316f_6e65_0000_0000);
        image.Reopen();
        device = (Qcow2Device)image.Device;
        Assert.Equal(["one"], device.Snapshots.Select(static s => s.Name));
        device.CreateSnapshot("two");
        device.CreateSnapshot("three");
        device.DeleteSnapshot("two");
        device.ApplySnapshot("one");
        image.ShouldPassCheck();
        table = (long)image.PeekBigEndian(64);
        Assert.Equal(64UL, image.PeekBigEndian(table + 36, bytes: 4));
        for (int i = 24; i < 64; i += 8)
            Assert.Equal(0xa0a1a2a3a4a5a600 + (ulong)i, image.PeekBigEndian(table + 40 + i));
        Assert.Equal(["one", "three"], ((Qcow2Device)image.Reopen().Device).Snapshots.Select(static s => s.Name));
    }

    [Fact]
    public void Too_much_extra_data_is_refused()
    {
        using TestImage image = TestImage.Create(version: 3, clusterSize: 4096, extendedL2: false);
        ((Qcow2Device)image.Device).CreateSnapshot("one");
        image.Close();
        image.Poke((long)image.PeekBigEndian(64) + 36, 1025, bytes: 4);
        BlockException refused = Assert.Throws<BlockException>(() => image.Reopen());
        Assert.Equal(BlockErrorKind.TooLarge, refused.Kind);
    }

    /// <summary>With 64 bits no refcount is full; one of 2^64 - 1 is damage.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(8)]
    [InlineData(16)]
    [InlineData(32)]
    public void A_full_refcount_refuses_a_snapshot_and_changes_nothing(int bits)
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 64 * 4096, ClusterSize = 4096, RefcountBits = bits });
        image.Write(0, 65536, tag: 1).Close();

        // The refcount of the last data cluster becomes the highest there is; in a byte the first is the lowest bits.
        long cluster = (long)(image.L2EntryOf(61440) & 0x00ff_ffff_ffff_fe00) / 4096;
        long block = (long)image.PeekBigEndian((long)image.PeekBigEndian(48));
        int bytes = Math.Max(1, bits / 8);
        int shift = bits < 8 ? (int)(cluster * bits % 8) : 0;
        long place = block + (cluster * bits / 8);
        ulong count = image.PeekBigEndian(place, bytes);
        Assert.Equal(1UL, count >> shift & (ulong.MaxValue >> (64 - bits)));
        image.Poke(place, count | (ulong.MaxValue >> (64 - bits) << shift), bytes).Reopen();
        byte[] before = All(image);
        BlockException refused =
            Assert.Throws<BlockException>(() => ((Qcow2Device)image.Device).CreateSnapshot("one"));
        Assert.Equal(BlockErrorKind.TooLarge, refused.Kind);
        Assert.Contains(bits == 1 ? "1 bit" : $"{bits} bits", refused.Message, StringComparison.Ordinal);
        Assert.Empty(((Qcow2Device)image.Device).Snapshots);
        image.Close().Poke(place, count, bytes).Reopen();
        Assert.Equal(before, All(image));
        image.ShouldPassCheck().Write(0, 100_000, tag: 2).ShouldRead(0, 100_000, tag: 2).ShouldPassCheck();
    }

    /// <summary>Refcount blocks for long tables of small clusters count each other in turns.</summary>
    [Theory]
    [InlineData(64, 16L << 30)]
    [InlineData(16, 127L << 30)]
    [InlineData(16, 128L << 30)]
    [Trait(Speed.Name, Speed.Slow)]
    public void A_snapshot_of_a_disk_with_a_long_L1_table_is_made_and_deleted(int bits, long size)
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = size, ClusterSize = 512, RefcountBits = bits });
        var device = (Qcow2Device)image.Device;
        image.Write(0, 4096, tag: 1).Write(size - 4096, 4096, tag: 1);
        device.CreateSnapshot("one");
        image.Write(0, 4096, tag: 2).ShouldPassCheck(allowLeaks: true);
        using (BlockDevice snapshot = device.OpenSnapshot("one"))
            DeviceHolds(snapshot, tag: 1, length: 4096);
        device.DeleteSnapshot("one");
        image.ShouldRead(0, 4096, tag: 2).ShouldRead(size - 4096, 4096, tag: 1).Close().ShouldPassCheck();
    }

    private static byte[] All(TestImage image) => image.Read(0, (int)image.Device.Length);

    private static void DeviceHolds(BlockDevice device, ulong tag, int length = 0)
    {
        byte[] seen = new byte[length == 0 ? (int)device.Length : length];
        device.Read(0, seen);
        Assert.True(Stamp.Bytes(0, seen.Length, tag).AsSpan().SequenceEqual(seen), $"not the stamp of {tag}");
    }

    /// <summary>A refcount of one bit cannot say that a snapshot has a cluster too.</summary>
    private static void OneBitRefusesSnapshots(int version, int clusterSize)
    {
        using SnapshotRun run = new(1, version, clusterSize, extendedL2: false, refcountBits: 1);
        run.Write(clusterSize / 2, clusterSize * 3);
        BlockException refused = Assert.Throws<BlockException>(() => run.Device.CreateSnapshot("one"));
        Assert.Equal(BlockErrorKind.TooLarge, refused.Kind);
        Assert.Contains("1 bit", refused.Message, StringComparison.Ordinal);
        run.Check();
        run.Write(0, run.Disk.Length);
        run.Check();
        run.ShouldPassQemu();
    }
}
