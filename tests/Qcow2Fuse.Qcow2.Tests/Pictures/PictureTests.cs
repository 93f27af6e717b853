// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Pictures;

/// <summary>
/// The pictures of <c>pictures.txt</c>: an image is built by hand, the engine does one operation, and the L2 entry is
/// read from the file by hand. The guest's bytes, the snapshot and qemu-img check have to agree.
/// </summary>
public sealed class PictureTests
{
    private const ulong Copied = 1UL << 63;
    private const ulong CompressedFlag = 1UL << 62;
    private const int EntryBytes = 16;

    public static TheoryData<string> Rows => [.. PictureRow.Table()];

    [Fact]
    public void There_are_more_than_a_hundred_pictures_and_no_two_are_equal()
    {
        string[] rows = [.. PictureRow.Table()];
        Assert.True(rows.Length >= 100);
        Assert.Equal(rows.Length, rows.Distinct().Count());
        foreach (string operation in (string[])["write", "zero", "unmap", "discard"])
            Assert.Contains(rows, row => PictureRow.Parse(row).Operation == operation);
    }

    [Theory]
    [MemberData(nameof(Rows))]
    public void An_operation_changes_the_picture(string line)
    {
        PictureRow row = PictureRow.Parse(line);
        PictureImage built = PictureImage.Build(row);
        using TestImage image = TestImage.Load(new ArrayImage(built.File), built.Backing);
        Assert.Equal(PictureRow.Draw(row.Before), Picture(image, row));
        Assert.Equal(built.Content, image.Plain.ReadAll());
        image.ShouldRead(0, built.Content).ShouldPassCheck();
        ulong[] before = Entries(image, row);

        byte[] expected = Operate(image.Device, row, built.Content);

        image.ShouldRead(0, expected);
        image.Device.Flush();
        Assert.Equal(PictureRow.Draw(row.After), Picture(image, row));
        image.Close();
        Assert.Equal(PictureRow.Draw(row.After), Picture(image, row));
        ulong[] after = Entries(image, row);
        for (int i = 0; i < row.Clusters; i++)
            Assert.Equal(row.EntriesAfter[i], Kind(before[i], after[i]));
        Assert.Equal(expected, image.Plain.ReadAll());
        image.Reopen().ShouldRead(0, expected).ShouldPassCheck();
        if (built.HasSnapshot)
            Assert.Equal(built.SnapshotContent, image.Plain.At(Assert.Single(image.Plain.Snapshots())).ReadAll());
    }

    public static TheoryData<string> Operations => ["read", "write", "zero", "unmap", "discard"];

    [Theory]
    [MemberData(nameof(Operations))]
    public void A_subcluster_that_is_allocated_and_zero_is_corruption(string operation)
    {
        for (int bit = 0; bit < PictureRow.Subclusters; bit++)
        {
            ShouldBeCorrupt(0x1_0000_0001UL << bit, keepHost: true, operation);
            ShouldBeCorrupt((0x1_0000_0001UL << bit) | uint.MaxValue, keepHost: true, operation);
        }

        ShouldBeCorrupt(ulong.MaxValue, keepHost: true, operation);
        ShouldBeCorrupt(ulong.MaxValue, keepHost: false, operation);
    }

    [Theory]
    [MemberData(nameof(Operations))]
    public void A_subcluster_that_is_allocated_nowhere_is_corruption(string operation)
    {
        for (int bit = 0; bit < PictureRow.Subclusters; bit++)
        {
            ShouldBeCorrupt(1UL << bit, keepHost: false, operation);
            ShouldBeCorrupt((1UL << bit) | ((ulong)~(1U << bit) << 32), keepHost: false, operation);
        }
    }

    /// <summary>
    /// The operation fails, the file says that it is corrupt, its entry stays as it was, what is sound can still be
    /// read, and nothing more can be written, now and after opening it again.
    /// </summary>
    private static void ShouldBeCorrupt(ulong bitmap, bool keepHost, string operation)
    {
        const string Data = "NNNNNNNN_NNNNNNNN_NNNNNNNN_NNNNNNNN";
        PictureRow row = PictureRow.Parse($"own {Data} backed {operation} 5 6 own {Data}");
        PictureImage built = PictureImage.Build(row);
        using TestImage image = TestImage.Load(new ArrayImage(built.File), built.Backing, opened: false);
        long entry = PictureImage.L2Table + (PictureImage.FirstCluster * EntryBytes);
        if (!keepHost)
            image.Poke(entry, 0);
        image.Poke(entry + 8, bitmap);
        ulong descriptor = image.PeekBigEndian(entry);
        image.Reopen();
        string what = $"bitmap 0x{bitmap:x}, {operation}";

        BlockException failure = Assert.Throws<BlockException>(() => Operate(image.Device, row, built.Content));
        Assert.True(failure.Kind == BlockErrorKind.Corrupt, what);
        Assert.True((image.PeekBigEndian(72) & 2) != 0, what + ": the corrupt bit is not set");
        Assert.Equal(BlockErrorKind.Io, Assert.Throws<BlockException>(() => image.Write(0, 512, 1)).Kind);
        image.ShouldRead(0, built.Content.AsSpan(0, (int)PictureImage.Guest));
        image.Close();
        Assert.Equal(descriptor, image.PeekBigEndian(entry));
        Assert.Equal(bitmap, image.PeekBigEndian(entry + 8));
        BlockException refusal = Assert.Throws<BlockException>(() => image.Reopen());
        Assert.Equal(BlockErrorKind.UnsupportedFeature, refusal.Kind);
    }

    /// <summary>Does what a row says, and returns what the disk has to hold then.</summary>
    private static byte[] Operate(BlockDevice device, PictureRow row, byte[] content)
    {
        long start = PictureImage.Guest + (long)(row.Range.From * PictureImage.SubclusterSize);
        int length = (int)(PictureImage.Guest + (long)(row.Range.To * PictureImage.SubclusterSize) - start);
        byte[] expected = [.. content];
        Span<byte> changed = expected.AsSpan((int)start, length);
        switch (row.Operation)
        {
            case "read":
                device.Read(start, changed);
                break;
            case "write":
                Stamp.Fill(changed, start, 77);
                device.Write(start, changed);
                break;
            case "zero":
            case "unmap":
                changed.Clear();
                device.WriteZeroes(start, length, mayUnmap: row.Operation == "unmap");
                break;
            case "discard":
                Discarded(expected, row, start, start + length);
                device.Discard(start, length);
                break;
            default:
                throw new FormatException(row.Operation);
        }

        return expected;
    }

    /// <summary>
    /// Whole subclusters become zero, and the last one of the disk up to its end; parts of compressed clusters do not.
    /// </summary>
    private static void Discarded(byte[] expected, PictureRow row, long start, long end)
    {
        for (int i = 0; i < row.Clusters; i++)
        {
            long cluster = PictureImage.Guest + ((long)i * PictureImage.ClusterSize);
            long clusterEnd = cluster + PictureImage.ClusterSize;
            if (row.EntriesBefore[i] == PictureEntry.Comp && (start > cluster || end < clusterEnd))
                continue;
            const long Unit = PictureImage.SubclusterSize;
            for (long at = cluster; at < Math.Min(clusterEnd, expected.LongLength); at += Unit)
            {
                if (at >= start && Math.Min(at + Unit, expected.LongLength) <= end)
                    expected.AsSpan((int)at, (int)Math.Min(Unit, expected.LongLength - at)).Clear();
            }
        }
    }

    private static PictureEntry Kind(ulong before, ulong after)
    {
        if ((after & CompressedFlag) != 0)
            return after == before ? PictureEntry.Comp : throw new InvalidDataException($"entry 0x{after:x}");
        if (after == 0)
            return PictureEntry.None;
        bool same = (before & CompressedFlag) == 0 && (before & ~Copied) == (after & ~Copied);
        if ((after & Copied) == 0)
            return same ? PictureEntry.Shared : throw new InvalidDataException($"entry 0x{after:x}");
        return same ? PictureEntry.Own : PictureEntry.New;
    }

    private static ulong[] Entries(TestImage image, PictureRow row) =>
        [.. Enumerable.Range(0, row.Clusters).Select(i => image.PeekBigEndian(EntryOffset(image, i)))];

    private static string Picture(TestImage image, PictureRow row)
    {
        StringBuilder picture = new();
        for (int i = 0; i < row.Clusters; i++)
        {
            ulong bitmap = image.PeekBigEndian(EntryOffset(image, i) + 8);
            for (int bit = 0; bit < PictureRow.Subclusters; bit++)
            {
                bool allocated = (bitmap >> bit & 1) != 0, zero = (bitmap >> (32 + bit) & 1) != 0;
                picture.Append((allocated, zero) switch
                {
                    (true, false) => 'N',
                    (false, true) => '0',
                    (false, false) => '-',
                    _ => '!',
                });
            }
        }

        return PictureRow.Draw(picture.ToString());
    }

    /// <summary>Where the L2 entry of a pictured cluster lies: header and L1 table are read by hand.</summary>
    private static long EntryOffset(TestImage image, int cluster)
    {
        long l1 = (long)image.PeekBigEndian(40);
        long l2 = (long)(image.PeekBigEndian(l1) & 0x00ff_ffff_ffff_fe00);
        return l2 + ((PictureImage.FirstCluster + cluster) * EntryBytes);
    }
}
