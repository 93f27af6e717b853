// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>
/// In a damaged image an entry of the guest may point at a table. To give that entry up would free and punch the table:
/// the request is refused, the image is marked corrupt, and no table is lost.
/// </summary>
public sealed class GivenUpMetadataTests
{
    private const int Cluster = 65536;
    private const int Damaged = 3;
    private const ulong OffsetMask = 0x00ff_ffff_ffff_fe00;

    /// <summary>How the reference is given up.</summary>
    public enum Way
    {
        Discard,
        DiscardThatKeepsItsPlace,
        Zeroes,
        WriteElsewhere,
        Shrink,
    }

    public static TheoryData<Way, string> Cases()
    {
        var cases = new TheoryData<Way, string>();
        foreach (Way way in Enum.GetValues<Way>())
        {
            foreach (string table in (string[])["L1 table", "L2 table", "refcount table", "refcount block"])
                cases.Add(way, table);
        }

        return cases;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_table_is_not_given_up_as_guest_data(Way way, string table)
    {
        DiscardMode mode = way == Way.DiscardThatKeepsItsPlace ? DiscardMode.NoUnref : DiscardMode.Unmap;
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 64 << 20 }, arguments: new FormatOpenArguments { Discard = mode });
        image.Write(0, 10 * Cluster, 7).Close();
        ulong place = Place(image, table);
        image.Poke(L2Table(image) + (Damaged * 8), place | (way == Way.WriteElsewhere ? 0 : 1UL << 63));
        byte[] before = image.Disk.Current.ToArray();
        image.Reopen();

        BlockException refused = Assert.Throws<BlockException>(() => GiveUp(image.Device, way));
        Assert.Equal(BlockErrorKind.Corrupt, refused.Kind);
        Assert.Contains(table, refused.Message, StringComparison.Ordinal);
        Assert.Equal(BlockErrorKind.Io, Assert.Throws<BlockException>(() => image.Write(0, 512, 8)).Kind);
        image.Close();

        byte[] after = image.Disk.Current.ToArray();
        Assert.Equal(FeatureBits.Corrupt, image.PeekBigEndian(72));
        Assert.Equal(1UL, image.PeekBigEndian(RefcountOf(image, place), bytes: 2));
        byte[] firstCluster = new byte[Cluster];
        image.Plain.Read(0, firstCluster);
        Assert.Equal(Stamp.Bytes(0, Cluster, 7), firstCluster);

        // A write that goes elsewhere has filled a cluster behind all others before it was refused.
        after[79] = 0;
        Assert.True(before.AsSpan().SequenceEqual(after.AsSpan(0, before.Length)), "other bytes were changed");
        Assert.True(after.Length == before.Length || way == Way.WriteElsewhere, "the file was extended");
    }

    private static void GiveUp(BlockDevice device, Way way)
    {
        switch (way)
        {
            case Way.Discard or Way.DiscardThatKeepsItsPlace:
                device.Discard(Damaged * Cluster, Cluster);
                break;
            case Way.Zeroes:
                device.WriteZeroes(Damaged * Cluster, Cluster, mayUnmap: true);
                break;
            case Way.WriteElsewhere:
                device.Write((Damaged * Cluster) + 5, Stamp.Bytes(0, 10, 1));
                break;
            default:
                device.Resize(Cluster);
                break;
        }

        device.Flush();
    }

    private static long L2Table(TestImage image) =>
        (long)(image.PeekBigEndian((long)image.PeekBigEndian(40)) & OffsetMask);

    private static long RefcountOf(TestImage image, ulong place) =>
        (long)(Place(image, "refcount block") + (place / Cluster * 2));

    private static ulong Place(TestImage image, string table) => table switch
    {
        "L1 table" => image.PeekBigEndian(40),
        "L2 table" => (ulong)L2Table(image),
        "refcount table" => image.PeekBigEndian(48),
        _ => image.PeekBigEndian((long)image.PeekBigEndian(48)),
    };
}
