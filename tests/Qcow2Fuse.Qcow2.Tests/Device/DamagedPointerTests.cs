// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>
/// What an entry points at that cannot be its cluster belongs to somebody else, or to nobody. Whatever replaces or
/// drops the entry is refused, and nothing there is freed, punched or counted otherwise. The image is marked corrupt,
/// unless the entry is wrong in itself: then all other clusters are as good as before.
/// </summary>
public sealed class DamagedPointerTests
{
    private const int Cluster = 65536;
    private const int Clusters = 10;
    private const int Damaged = 3;
    private const ulong OffsetMask = 0x00ff_ffff_ffff_fe00;
    private const ulong Copied = 1UL << 63;

    /// <summary>How the reference is given up, or counted.</summary>
    public enum Way
    {
        Discard,
        DiscardThatKeepsItsPlace,
        DiscardOfASubcluster,
        Zeroes,
        Overwrite,
        PartialWrite,
        CompressedWrite,
        Shrink,
        ShrinkOfTheWholeTable,
        SnapshotCreate,
        SnapshotApply,
        SnapshotDelete,
    }

    /// <summary>Where the entry points.</summary>
    public enum Damage
    {
        /// <summary>Into the middle of a guest cluster, so that it would take half of the next one.</summary>
        Unaligned,

        /// <summary>As above, and it says that it holds no data.</summary>
        UnalignedZero,

        /// <summary>Behind the end of the file.</summary>
        Beyond,

        /// <summary>A compressed cluster whose bytes begin behind the end of the file.</summary>
        CompressedBeyond,

        /// <summary>A compressed cluster that begins in the header.</summary>
        CompressedInHeader,
    }

    public static TheoryData<Way, Damage, bool> Cases()
    {
        var cases = new TheoryData<Way, Damage, bool>();
        foreach (Way way in Enum.GetValues<Way>())
        {
            foreach (Damage damage in Enum.GetValues<Damage>())
            {
                // Of a compressed cluster no part is discarded, and one that cannot be read is not copied.
                bool isCompressed = damage is Damage.CompressedBeyond or Damage.CompressedInHeader;
                if (isCompressed && way is (Way.DiscardOfASubcluster or Way.PartialWrite))
                    continue;
                if (way != Way.DiscardOfASubcluster)
                    cases.Add(way, damage, false);
                cases.Add(way, damage, true);
            }
        }

        return cases;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void What_a_damaged_entry_points_at_stays(Way way, Damage damage, bool extendedL2)
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 1L << 30, ExtendedL2 = extendedL2 }, arguments: new FormatOpenArguments
            {
                Discard = way == Way.DiscardThatKeepsItsPlace ? DiscardMode.NoUnref : DiscardMode.Unmap,
                Compress = way == Way.CompressedWrite ? CompressedWrites.AsImage : CompressedWrites.Off,
                Formats = [new Qcow2Options { CompressionThreads = 0 }],
            });
        bool ofSnapshot = way is Way.SnapshotApply or Way.SnapshotDelete;
        using (Qcow2Device plain = Qcow2Device.Open(new Unowned(image.Close().Disk), new FormatOpenArguments()))
        {
            plain.Write(0, Stamp.Bytes(0, Clusters * Cluster, 7));
            if (ofSnapshot)
            {
                plain.CreateSnapshot("s");
                plain.Write(Damaged * Cluster, Stamp.Bytes(Damaged * Cluster, 2 * Cluster, 7));
            }
        }

        long table = L2Table(image, ofSnapshot);
        Break(image, table + (Damaged * (extendedL2 ? 16 : 8)), damage, extendedL2, way);
        byte[] before = image.Disk.Current.ToArray();
        image.Reopen();

        BlockException refused = Assert.Throws<BlockException>(() => GiveUp((Qcow2Device)image.Device, way));
        Assert.Equal(BlockErrorKind.Corrupt, refused.Kind);
        bool isContained = refused.IsContained;
        Assert.Equal(damage is Damage.Unaligned or Damage.UnalignedZero && !IsOfSnapshots(way), isContained);
        if (!isContained)
            Assert.Equal(BlockErrorKind.Io, Assert.Throws<BlockException>(() => image.Write(0, 512, 8)).Kind);
        try
        {
            image.Close();
        }
        catch (BlockException) when (way == Way.CompressedWrite)
        {
            // What was gathered is told to be lost.
        }

        byte[] after = image.Disk.Current.ToArray();
        Assert.Equal(isContained ? 0 : FeatureBits.Corrupt, image.PeekBigEndian(72) & FeatureBits.Corrupt);
        after[79] = before[79];
        int same = before.AsSpan().CommonPrefixLength(after.AsSpan(0, before.Length));
        Assert.True(same == before.Length, $"the byte at 0x{same:x} was changed");
    }

    private static bool IsOfSnapshots(Way way) =>
        way is Way.SnapshotCreate or Way.SnapshotApply or Way.SnapshotDelete;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void No_part_of_an_entry_is_read_whose_cluster_is_not_aligned(bool extendedL2)
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 1L << 30, ExtendedL2 = extendedL2 }, Stamp.Bytes(0, 1 << 20, 3));
        image.Write(0, Clusters * Cluster, 7).Close();
        long entry = L2Table(image, ofSnapshot: false) + (Damaged * (extendedL2 ? 16 : 8));

        // Subcluster 0 holds data, 1 is zero, and the others are those of the backing file; or all of it is zero.
        image.Poke(entry, (image.PeekBigEndian(entry) & ~1UL) | 512 | (extendedL2 ? 0UL : 1));
        if (extendedL2)
            image.Poke(entry + 8, 0x0000_0002_0000_0001);
        image.Reopen();
        foreach (int at in (int[])[0, 2048, 4096, Cluster - 512])
        {
            BlockException refused = Assert.Throws<BlockException>(() => image.Read((Damaged * Cluster) + at, 512));
            Assert.Equal(BlockErrorKind.Corrupt, refused.Kind);
            Assert.Throws<BlockException>(() => image.Device.GetExtent((Damaged * Cluster) + at, 512));
        }

        // The clusters beside it are no worse.
        image.ShouldRead((Damaged - 1) * Cluster, Cluster, 7).ShouldRead((Damaged + 1) * Cluster, Cluster, 7);
    }

    [Theory]
    [InlineData(0x600)]
    [InlineData(0x4000_0000)]
    public void An_L2_table_that_cannot_be_one_is_not_freed(long place)
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 2L << 30 });
        image.Write(0, Clusters * Cluster, 7).Write(1L << 30, Cluster, 7).Close();
        long entry = (long)image.PeekBigEndian(40) + 16;
        image.Poke(entry, (ulong)(L2Table(image, ofSnapshot: false) + place) | Copied);
        byte[] before = image.Disk.Current.ToArray();
        image.Reopen();
        Assert.Equal(
            BlockErrorKind.Corrupt, Assert.Throws<BlockException>(() => image.Device.Resize(Cluster)).Kind);
        image.Close();
        byte[] after = image.Disk.Current.ToArray();
        after[79] = 0;
        Assert.True(before.AsSpan().SequenceEqual(after));
    }

    private static void Break(TestImage image, long entry, Damage damage, bool extendedL2, Way way)
    {
        ulong whole = image.PeekBigEndian(entry);
        ulong end = (ulong)image.Disk.Length;
        ulong copied = way is Way.Overwrite or Way.PartialWrite ? 0 : whole & Copied;
        ulong broken = damage switch
        {
            Damage.Unaligned => copied | (whole & OffsetMask) | 512,
            Damage.UnalignedZero => copied | (whole & OffsetMask) | 512 | (extendedL2 ? 0UL : 1),
            Damage.Beyond => copied | ((end + (1 << 20)) & ~0xffffUL),
            Damage.CompressedBeyond => (1UL << 62) | (end + (1 << 20)),
            _ => (1UL << 62) | 1024,
        };
        image.Poke(entry, broken);
        if (extendedL2)
        {
            image.Poke(entry + 8, damage switch
            {
                Damage.UnalignedZero => 0xffff_ffff_0000_0000,
                Damage.CompressedBeyond or Damage.CompressedInHeader => 0,
                _ => 0xffff_ffff,
            });
        }
    }

    private static void GiveUp(Qcow2Device device, Way way)
    {
        const int At = Damaged * Cluster;
        switch (way)
        {
            case Way.Discard or Way.DiscardThatKeepsItsPlace:
                device.Discard(At, Cluster);
                break;
            case Way.DiscardOfASubcluster:
                device.Discard(At + 2048, 4096);
                break;
            case Way.Zeroes:
                device.WriteZeroes(At, Cluster, mayUnmap: true);
                break;
            case Way.Overwrite:
                device.Write(At, Stamp.Bytes(At, Cluster, 1));
                break;
            case Way.PartialWrite:
                device.Write(At + 5, Stamp.Bytes(0, 10, 1));
                break;
            case Way.CompressedWrite:
                device.Write(At, new byte[Cluster - 1]);
                device.Write(At + Cluster - 1, [1]);
                break;
            case Way.Shrink:
                device.Resize(Cluster);
                break;
            case Way.ShrinkOfTheWholeTable:
                device.Resize(0);
                break;
            case Way.SnapshotCreate:
                device.CreateSnapshot("new");
                break;
            case Way.SnapshotApply:
                device.ApplySnapshot("s");
                break;
            default:
                device.DeleteSnapshot("s");
                break;
        }

        device.Flush();
    }

    private static long L2Table(TestImage image, bool ofSnapshot)
    {
        long l1 = (long)image.PeekBigEndian(ofSnapshot ? (long)image.PeekBigEndian(64) : 40);
        return (long)(image.PeekBigEndian(l1) & OffsetMask);
    }

    /// <summary>Lets a device be opened and closed on the same file several times.</summary>
    private sealed class Unowned(BlockDevice child) : Qcow2Fuse.Testing.Faults.PassThroughDevice(child);
}
