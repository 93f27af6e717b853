// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>
/// Zeroes that a guest has written behind the end of a short backing file stay zeroes where that file is longer one
/// day.
/// </summary>
public sealed class GrowingBackingTests
{
    private const int BackingBytes = 1 << 20;
    private const int DiskBytes = 2 << 20;

    public enum Way
    {
        Zeroes,
        ZeroesThatUnmap,
        Discard,
    }

    public static TheoryData<Way, int, bool, CompressedWrites> Cases()
    {
        var cases = new TheoryData<Way, int, bool, CompressedWrites>();
        foreach (Way way in Enum.GetValues<Way>())
        {
            cases.Add(way, 3, false, CompressedWrites.Off);
            cases.Add(way, 3, true, CompressedWrites.Off);
            cases.Add(way, 3, false, CompressedWrites.AsImage);
            cases.Add(way, 2, false, CompressedWrites.Off);
        }

        return cases;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Zeroes_behind_a_short_backing_file_are_recorded(
        Way way, int version, bool extendedL2, CompressedWrites compress)
    {
        (int Offset, int Length)[] ranges =
        [
            (1536 << 10, 256 << 10),
            (BackingBytes + 1000, 3000),
            (BackingBytes + 200_000, 100_000),
            (DiskBytes - 700, 700),
        ];
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = DiskBytes, Version = version, ExtendedL2 = extendedL2 },
            Stamp.Bytes(0, BackingBytes, 3),
            new FormatOpenArguments { Compress = compress, Formats = [new Qcow2Options { CompressionThreads = 0 }] });
        image.Write(BackingBytes + (300 << 10), 512, 7);
        foreach ((int offset, int length) in ranges)
        {
            if (way == Way.Discard)
                image.Device.Discard(offset, length);
            else
                image.Device.WriteZeroes(offset, length, mayUnmap: way == Way.ZeroesThatUnmap);
        }

        image.ShouldPassCheck().Close();
        using TestImage later = TestImage.Load(image.Disk.Current, Stamp.Bytes(0, DiskBytes, 3));
        foreach ((int offset, int length) in ranges)
        {
            // A discard says nothing of parts of what the tables describe, and nothing at all in version 2.
            int unit = way == Way.Discard ? extendedL2 ? 2048 : 65536 : 1;
            int start = (offset + unit - 1) / unit * unit;
            int end = offset + length == DiskBytes ? DiskBytes : (offset + length) / unit * unit;
            if (end > start && (way != Way.Discard || version > 2))
                later.ShouldReadZeroes(start, end - start);
        }

        // What nobody wrote is the backing file's.
        later.ShouldRead(BackingBytes + (150 << 10), 4096, 3);
    }

    [Fact]
    public void A_disk_that_grows_behind_a_short_backing_file_takes_no_tables_for_it()
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = DiskBytes }, Stamp.Bytes(0, BackingBytes, 3));
        image.Device.Flush();
        long before = image.Disk.Length;
        image.Device.Resize(1L << 40);
        Assert.InRange(image.Disk.Length, before, before + (1 << 20));
        image.ShouldReadZeroes(DiskBytes, 1 << 20);
    }
}
