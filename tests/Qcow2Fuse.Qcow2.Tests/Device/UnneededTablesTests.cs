// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>
/// Tables that reading does without: an image that has lost them is read, never written, and its check says what is
/// wrong.
/// </summary>
public sealed class UnneededTablesTests
{
    private const int Cluster = 65536;
    private const int RefcountOffset = 48;
    private const int RefcountClusters = 56;
    private const int Snapshots = 60;
    private const int SnapshotOffset = 64;
    private const int Autoclear = 88;

    [Theory]
    [InlineData(RefcountOffset, 8, 1UL << 40, "the refcount table at 1099511627776 lies beyond the end")]
    [InlineData(RefcountOffset, 8, 4104UL, "refcount table offset 4104")]
    [InlineData(RefcountOffset, 8, ulong.MaxValue, "refcount table offset")]
    [InlineData(RefcountClusters, 4, 0UL, "no refcount table")]
    [InlineData(RefcountClusters, 4, 0xffffffffUL, "too large")]
    [InlineData(Snapshots, 4, 3UL, "snapshot table")]
    [InlineData(Snapshots, 4, 0xffffffffUL, "too many")]
    public void An_image_without_them_is_read_and_not_written(int field, int bytes, ulong value, string reason)
    {
        using TestImage image = NewImage();
        image.Close().Poke(field, value, bytes);
        ShouldBeReadOnly(image, reason, FailureCode.Damaged);
        CheckResult check = ImageChecker.Check(image.Disk);
        Assert.Equal((1, 0L), (check.Findings.Count, check.CheckErrors));
        Assert.Contains(reason, check.Findings[0].Text, StringComparison.Ordinal);
        Assert.Equal(1, check.Corruptions);
    }

    [Theory]
    [InlineData(1UL << 40)]
    [InlineData(4096UL)]
    public void A_refcount_block_that_cannot_be_read_is_not_needed_either(ulong block)
    {
        using TestImage image = NewImage();
        image.Close().Poke((long)image.PeekBigEndian(RefcountOffset), block);
        using (Qcow2Device reader = Qcow2Device.Open(
            new Unowned(image.Disk), new FormatOpenArguments { ReadOnly = true }))
        {
            ShouldHoldAll(reader);
        }

        Assert.True(ImageChecker.Check(image.Disk).Corruptions > 0);
    }

    [Fact]
    public void A_snapshot_table_that_is_cut_off_is_not_written_over()
    {
        using TestImage image = NewImage();
        ((Qcow2Device)image.Device).CreateSnapshot("s");
        image.Close();
        ulong table = image.PeekBigEndian(SnapshotOffset);
        image.Poke((long)table + 36, 1025, bytes: 4);
        ShouldBeReadOnly(image, "1025 bytes of extra data", FailureCode.Damaged);
    }

    [Fact]
    public void A_raw_data_file_that_is_not_there_is_no_reason_to_write()
    {
        using TestImage image = NewImage();
        image.Close().Poke(Autoclear, FeatureBits.RawExternalData);
        ShouldBeReadOnly(image, "a raw data file and has none", FailureCode.DamagedHeader);
    }

    [Fact]
    public void An_encryption_header_without_encryption_is_not_written_over()
    {
        using TestImage image = NewImage();
        image.Close();
        long end = 112;
        while (image.PeekBigEndian(end, bytes: 4) != 0)
            end += 8 + (((long)image.PeekBigEndian(end + 4, bytes: 4) + 7) & ~7);
        image.Poke(end, HeaderExtension.Crypto, bytes: 4).Poke(end + 4, 16, bytes: 4)
            .Poke(end + 8, 1 << 20).Poke(end + 16, Cluster);
        ShouldBeReadOnly(image, "an encryption header and is not encrypted", FailureCode.DamagedHeader);
    }

    private static TestImage NewImage() =>
        TestImage.Create(new Qcow2CreateOptions { Size = 64 << 20 }).Write(0, 5 * Cluster, 7).Write(32 << 20, 100, 7);

    private static void ShouldBeReadOnly(TestImage image, string reason, FailureCode cause)
    {
        byte[] before = image.Disk.Current.ToArray();
        ImageReferences references = new Qcow2Format().Inspect(image.Disk);
        Assert.Contains(reason, references.WriteRefusal, StringComparison.Ordinal);
        Assert.Equal(cause, references.WriteRefusalCause?.Code);
        BlockException refused = Assert.Throws<BlockException>(
            () => Qcow2Device.Open(new Unowned(image.Disk), new FormatOpenArguments()));
        Assert.Contains(reason, refused.Message, StringComparison.Ordinal);
        using (Qcow2Device reader = Qcow2Device.Open(
            new Unowned(image.Disk), new FormatOpenArguments { ReadOnly = true }))
        {
            ShouldHoldAll(reader);
        }

        Assert.Equal(before, image.Disk.Current.ToArray());
    }

    private static void ShouldHoldAll(Qcow2Device reader)
    {
        byte[] seen = new byte[5 * Cluster];
        reader.Read(0, seen);
        Assert.Equal(Stamp.Bytes(0, seen.Length, 7), seen);
        reader.Read(32 << 20, seen.AsSpan(0, 100));
        Assert.Equal(Stamp.Bytes(32 << 20, 100, 7), seen[..100]);
    }

    /// <summary>Lets a device be opened and closed on the same file several times.</summary>
    private sealed class Unowned(BlockDevice child) : PassThroughDevice(child);
}
