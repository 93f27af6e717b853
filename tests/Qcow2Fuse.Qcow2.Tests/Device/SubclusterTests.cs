// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>
/// States of the 32 subclusters of a cluster as pictures: N holds data, 0 reads as zeroes, - lets the backing file
/// show. Before, what is done, and after; the guest sees the same bytes but for what is written.
/// </summary>
public sealed class SubclusterTests
{
    private const int ClusterSize = 16384;
    private const int SubclusterSize = ClusterSize / 32;
    private const long Cluster = 3L * ClusterSize;
    private const ulong CopiedFlag = 1UL << 63;

    [Theory]
    // In place: only the subclusters at the edges change; holes stay.
    [InlineData("--0-NN-0_NNNNNNNN_NNNNNNNN_NNNNNNNN", 8.0, 9.0, "--0-NN-0_NNNNNNNN_NNNNNNNN_NNNNNNNN")]
    [InlineData("--0-NN-0_NNNNNNNN_NNNNNNNN_NNNNNNNN", 0.0, 1.0, "N-0-NN-0_NNNNNNNN_NNNNNNNN_NNNNNNNN")]
    [InlineData("--0-NN-0_NNNNNNNN_NNNNNNNN_NNNNNNNN", 1.5, 2.5, "-NN-NN-0_NNNNNNNN_NNNNNNNN_NNNNNNNN")]
    [InlineData("N-------_--------_--------_--------", 4.25, 4.5, "N---N---_--------_--------_--------")]
    [InlineData("N-------_--------_--------_-------0", 31.5, 32.0, "N-------_--------_--------_-------N")]
    [InlineData("N0000000_00000000_00000000_00000000", 7.5, 9.5, "N000000N_NN000000_00000000_00000000")]
    [InlineData("NNNNNNNN_NNNNNNNN_NNNNNNNN_NNNNNNNN", 0.25, 31.75, "NNNNNNNN_NNNNNNNN_NNNNNNNN_NNNNNNNN")]
    public void A_write_in_place_allocates_what_it_touches(string before, double from, double to, string after) =>
        WriteAndCompare(before, from, to, after, shared: false);

    [Theory]
    // A new cluster: from the first subcluster with data on everything up to the request is copied, holes included.
    [InlineData("--0-NN-0_NNNNNNNN_NNNNNNNN_NNNNNNNN", 8.0, 9.0, "--0-NNNN_NNNNNNNN_NNNNNNNN_NNNNNNNN")]
    [InlineData("--0-NN-0_NNNNNNNN_NNNNNNNN_NNNNNNNN", 1.0, 2.0, "-NNNNNNN_NNNNNNNN_NNNNNNNN_NNNNNNNN")]
    [InlineData("0000----_----NN--_--------_00000000", 16.0, 17.0, "0000----_----NNNN_N-------_00000000")]
    [InlineData("0000----_----NN--_--------_00000000", 2.5, 3.0, "00NN" + "NNNN_NNNNNN--_--------_00000000")]
    [InlineData("N------N_--------_--------_-------N", 9.5, 10.5, "NNNNNNNN_NNNNNNNN_NNNNNNNN_NNNNNNNN")]
    public void A_write_to_a_shared_cluster_copies_its_data_only(string before, double from, double to, string after) =>
        WriteAndCompare(before, from, to, after, shared: true);

    [Theory]
    [InlineData(0.0, 1.0, "N-------_--------_--------_--------")]
    [InlineData(3.5, 5.5, "---NNN--_--------_--------_--------")]
    [InlineData(31.0, 32.0, "--------_--------_--------_-------N")]
    public void A_write_to_an_unallocated_cluster_copies_only_its_edges(double from, double to, string after) =>
        WriteAndCompare("--------_--------_--------_--------", from, to, after, shared: false);

    [Theory]
    [InlineData("NNNNNNNN_--------_00000000_NNNNNNNN", 2.0, 4.0, false, "NN00NNNN_--------_00000000_NNNNNNNN")]
    [InlineData("NNNNNNNN_--------_00000000_NNNNNNNN", 6.0, 10.0, true, "NNNNNN00_00------_00000000_NNNNNNNN")]
    [InlineData("NNNNNNNN_NNNNNNNN_NNNNNNNN_NNNNNNNN", 0.0, 32.0, true, "00000000_00000000_00000000_00000000")]
    [InlineData("--------_--------_--------_--------", 5.0, 6.0, true, "-----0--_--------_--------_--------")]
    [InlineData("NNNNNNNN_--------_00000000_NNNNNNNN", 0.5, 2.5, false, "N0NNNNNN_--------_00000000_NNNNNNNN")]
    public void Zeroes_change_whole_subclusters_by_metadata(
        string before, double from, double to, bool mayUnmap, string after)
    {
        using TestImage image = Make(before, shared: false);
        byte[] expected = image.Read(Cluster, ClusterSize);
        int start = (int)(from * SubclusterSize);
        int length = (int)(to * SubclusterSize) - start;
        expected.AsSpan(start, length).Clear();

        image.Device.WriteZeroes(Cluster + start, length, mayUnmap);

        image.Device.Flush();
        image.ShouldRead(Cluster, expected).ShouldPassCheck();
        Assert.Equal(after, Picture(image));
    }

    [Fact]
    public void The_last_subcluster_with_data_that_is_unmapped_frees_the_cluster()
    {
        using TestImage image = Make("NN------_--------_--------_--------", shared: false);
        image.Device.WriteZeroes(Cluster, 2 * SubclusterSize, mayUnmap: true);
        image.Device.Flush();
        image.ShouldPassCheck();
        Assert.Equal("00------_--------_--------_--------", Picture(image));
        Assert.Equal(0UL, image.L2EntryOf(Cluster));
    }

    [Theory]
    [InlineData(0x0000_0001_0000_0001UL, true)]
    [InlineData(0x0000_0000_0000_0001UL, false)]
    public void An_invalid_bitmap_is_corruption(ulong bitmap, bool keepHost)
    {
        using TestImage image = Make("NNNNNNNN_NNNNNNNN_NNNNNNNN_NNNNNNNN", shared: false);
        image.Close();
        long entry = EntryOffset(image);
        image.Poke(entry + 8, bitmap);
        if (!keepHost)
            image.Poke(entry, 0);
        image.Reopen();

        BlockException failure = Assert.Throws<BlockException>(() => image.Read(Cluster, 1));
        Assert.Equal(BlockErrorKind.Corrupt, failure.Kind);
        Assert.Equal(2UL, image.PeekBigEndian(72) & 2);
        Assert.Equal(BlockErrorKind.Io, Assert.Throws<BlockException>(() => image.Write(0, 512, 1)).Kind);
    }

    private static void WriteAndCompare(string before, double from, double to, string after, bool shared)
    {
        using TestImage image = Make(before, shared);
        byte[] expected = image.Read(Cluster, ClusterSize);
        int start = (int)(from * SubclusterSize);
        byte[] data = Stamp.Bytes(Cluster + start, (int)(to * SubclusterSize) - start, 77);
        data.CopyTo(expected, start);

        image.Device.Write(Cluster + start, data);

        image.ShouldRead(Cluster, expected);
        image.Device.Flush();
        Assert.Equal(after, Picture(image));
        if (!shared)
            image.ShouldPassCheck();
    }

    /// <summary>
    /// An image with a backing file whose cluster 3 has the pictured state. Shared: the entry does not say that the
    /// cluster is its own, as after a snapshot.
    /// </summary>
    private static TestImage Make(string picture, bool shared)
    {
        byte[] backing = Stamp.Bytes(0, 8 * ClusterSize, 5);
        TestImage image = TestImage.Create(version: 3, ClusterSize, extendedL2: true, backing);
        string states = picture.Replace("_", "", StringComparison.Ordinal);
        for (int i = 0; i < 32; i++)
        {
            long at = Cluster + (i * SubclusterSize);
            if (states[i] == 'N')
                image.Write(at, SubclusterSize, 9);
            else if (states[i] == '0')
                image.Device.WriteZeroes(at, SubclusterSize, mayUnmap: false);
        }

        image.Device.Flush();
        Assert.Equal(picture, Picture(image));
        if (shared)
        {
            image.Close();
            image.Poke(EntryOffset(image), image.L2EntryOf(Cluster) & ~CopiedFlag);
            image.Reopen();
        }

        return image;
    }

    /// <summary>Where the L2 entry of cluster 3 lies: header, L1 table and L2 table are read by hand.</summary>
    private static long EntryOffset(TestImage image)
    {
        long l1 = (long)image.PeekBigEndian(40);
        long l2 = (long)(image.PeekBigEndian(l1) & 0x00ff_ffff_ffff_fe00);
        return l2 + (3 * 16);
    }

    private static string Picture(TestImage image)
    {
        long l1 = (long)image.PeekBigEndian(40);
        if (image.PeekBigEndian(l1) == 0)
            return "--------_--------_--------_--------";
        ulong bitmap = image.PeekBigEndian(EntryOffset(image) + 8);
        StringBuilder picture = new();
        for (int i = 0; i < 32; i++)
        {
            if (i is 8 or 16 or 24)
                picture.Append('_');
            bool allocated = (bitmap >> i & 1) != 0;
            bool zero = (bitmap >> (32 + i) & 1) != 0;
            picture.Append(allocated ? 'N' : zero ? '0' : '-');
        }

        return picture.ToString();
    }
}
