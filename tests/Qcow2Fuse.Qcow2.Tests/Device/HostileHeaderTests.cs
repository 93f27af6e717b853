// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Text;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>
/// Every field of the header with values that must not be believed: one line says which field it is, and nothing is
/// written. The rules are those of the specification's sections "Header" and "Header extensions".
/// </summary>
public sealed class HostileHeaderTests
{
    private const int ClusterSize = 4096;
    private const int Incompatible = 72;
    private const int ExtensionStart = 112;
    private const BlockErrorKind Invalid = BlockErrorKind.InvalidFormat;
    private const BlockErrorKind Unsupported = BlockErrorKind.UnsupportedFeature;
    private const BlockErrorKind TooLarge = BlockErrorKind.TooLarge;

    [Theory]
    [InlineData("magic", 0, 4, 0x514649fcUL, Invalid, "not a qcow2 image")]
    [InlineData("version", 4, 4, 0UL, Unsupported, "version 0")]
    [InlineData("version", 4, 4, 1UL, Unsupported, "version 1")]
    [InlineData("version", 4, 4, 4UL, Unsupported, "version 4")]
    [InlineData("version", 4, 4, 0xffffffffUL, Unsupported, "version 4294967295")]
    [InlineData("backing offset", 8, 8, 4097UL, Invalid, "backing file offset 4097")]
    [InlineData("backing offset", 8, 8, ulong.MaxValue, Invalid, "backing file offset")]
    [InlineData("cluster bits", 20, 4, 0UL, Invalid, "cluster size")]
    [InlineData("cluster bits", 20, 4, 8UL, Invalid, "cluster size 2^8 ")]
    [InlineData("cluster bits", 20, 4, 22UL, Invalid, "cluster size 2^22 ")]
    [InlineData("cluster bits", 20, 4, 44UL, Invalid, "cluster size 2^44 ")]
    [InlineData("cluster bits", 20, 4, 0xffffffffUL, Invalid, "cluster size")]
    [InlineData("size", 24, 8, ulong.MaxValue, TooLarge, "size")]
    [InlineData("size", 24, 8, 1UL << 63, TooLarge, "size")]
    [InlineData("size", 24, 8, (ulong)long.MaxValue, Invalid, "L1 table")]
    [InlineData("size", 24, 8, 1UL << 32, Invalid, "L1 table")]
    [InlineData("encryption", 32, 4, 1UL, BlockErrorKind.PermissionDenied, "AES")]
    [InlineData("encryption", 32, 4, 2UL, Invalid, "LUKS")]
    [InlineData("encryption", 32, 4, 3UL, Unsupported, "encryption method 3")]
    [InlineData("encryption", 32, 4, 0xffffffffUL, Unsupported, "encryption method")]
    [InlineData("L1 size", 36, 4, 0UL, Invalid, "L1 table of 0 entries")]
    [InlineData("L1 size", 36, 4, (4UL << 20) + 1, TooLarge, "L1 table")]
    [InlineData("L1 size", 36, 4, 0xffffffffUL, TooLarge, "L1 table")]
    [InlineData("L1 size", 36, 4, 4UL << 20, Invalid, "L1 table")]
    [InlineData("L1 offset", 40, 8, 0UL, Invalid, "L1 table")]
    [InlineData("L1 offset", 40, 8, 4097UL, Invalid, "L1 table offset 4097")]
    [InlineData("L1 offset", 40, 8, 1UL << 40, Invalid, "L1 table")]
    [InlineData("L1 offset", 40, 8, 0x7ffffffffffff000UL, Invalid, "L1 table")]
    [InlineData("L1 offset", 40, 8, 0xfffffffffffff000UL, Invalid, "L1 table")]
    [InlineData("refcount table offset", 48, 8, 0UL, Invalid, "refcount table")]
    [InlineData("refcount table offset", 48, 8, 4104UL, Invalid, "refcount table offset 4104")]
    [InlineData("refcount table offset", 48, 8, 1UL << 40, Invalid, "refcount table")]
    [InlineData("refcount table offset", 48, 8, 0xfffffffffffff000UL, Invalid, "refcount table")]
    [InlineData("refcount table clusters", 56, 4, 0UL, Invalid, "refcount table")]
    [InlineData("refcount table clusters", 56, 4, 2049UL, TooLarge, "refcount table of 2049 clusters")]
    [InlineData("refcount table clusters", 56, 4, 2048UL, Invalid, "refcount table")]
    [InlineData("refcount table clusters", 56, 4, 0xffffffffUL, TooLarge, "refcount table")]
    [InlineData("snapshots", 60, 4, 65537UL, TooLarge, "65537 snapshots")]
    [InlineData("snapshots", 60, 4, 0xffffffffUL, TooLarge, "snapshots")]
    [InlineData("snapshots", 60, 4, 1UL, Invalid, "snapshot table")]
    [InlineData("incompatible", Incompatible, 8, 1UL << 5, Unsupported, "bit 5")]
    [InlineData("incompatible", Incompatible, 8, 1UL << 63, Unsupported, "bit 63")]
    [InlineData("incompatible", Incompatible, 8, (1UL << 40) | (1UL << 41), Unsupported, "bit 40, bit 41")]
    [InlineData("incompatible", Incompatible, 8, 2UL, Unsupported, "corrupt")]
    [InlineData("incompatible", Incompatible, 8, 4UL, Invalid, "external data file")]
    [InlineData("incompatible", Incompatible, 8, 8UL, Invalid, "compression type 0")]
    [InlineData("incompatible", Incompatible, 8, 16UL, Invalid, "extended L2 entries")]
    [InlineData("refcount order", 96, 4, 7UL, Invalid, "refcount width")]
    [InlineData("refcount order", 96, 4, 0xffffffffUL, Invalid, "refcount width")]
    [InlineData("header length", 100, 4, 0UL, Invalid, "header length 0 ")]
    [InlineData("header length", 100, 4, 103UL, Invalid, "header length 103 ")]
    [InlineData("header length", 100, 4, 4097UL, Invalid, "header length 4097 ")]
    [InlineData("header length", 100, 4, 0xffffffffUL, Invalid, "header length")]
    [InlineData("compression type", 104, 1, 1UL, Invalid, "compression type 1")]
    [InlineData("compression type", 104, 1, 2UL, Unsupported, "compression type 2")]
    [InlineData("compression type", 104, 1, 255UL, Unsupported, "compression type 255")]
    public void A_field_is_refused_by_name(
        string field, int offset, int bytes, ulong value, BlockErrorKind kind, string expected)
    {
        byte[] image = Sound();
        Put(image, offset, bytes, value);
        ShouldRefuse(image, kind, expected, field);
    }

    [Fact]
    public void A_snapshot_table_must_lie_in_the_file()
    {
        byte[] image = Sound();
        Put(image, 60, 4, 1);
        Put(image, 64, 8, 100);
        ShouldRefuse(image, Invalid, "snapshot table offset 100");
        Put(image, 64, 8, 1UL << 40);
        ShouldRefuse(image, Invalid, "snapshot table");
    }

    [Fact]
    public void Backing_file_names_must_fit_and_end_in_the_header_cluster()
    {
        byte[] image = Sound();
        Put(image, 8, 8, 1000);
        Put(image, 16, 4, 1024);
        ShouldRefuse(image, Invalid, "backing file name of 1024 bytes");
        Put(image, 16, 4, 0xffffffff);
        ShouldRefuse(image, Invalid, "backing file name");
        Put(image, 8, 8, ClusterSize - 10);
        Put(image, 16, 4, 11);
        ShouldRefuse(image, Invalid, "backing file name of 11 bytes");
    }

    [Theory]
    [InlineData(0xe2792acaU, 16, "backing format")]
    [InlineData(0xe2792acaU, ClusterSize, "header extension 0xe2792aca")]
    [InlineData(0x44415441U, 1024, "data file name of 1024 bytes")]
    [InlineData(0x23852875U, 23, "bitmaps extension of 23 bytes")]
    [InlineData(0x0537be77U, 8, "encryption extension of 8 bytes")]
    [InlineData(0x12345678U, -1, "header extension 0x12345678")]
    [InlineData(0x12345678U, ClusterSize - ExtensionStart - 7, "header extension 0x12345678")]
    public void Extensions_of_a_wrong_length_are_refused(uint type, int length, string expected)
    {
        byte[] image = Sound();
        Put(image, ExtensionStart, 4, type);
        Put(image, ExtensionStart + 4, 4, (uint)length);
        ShouldRefuse(image, Invalid, expected);
    }

    [Fact]
    public void Extensions_that_nobody_knows_are_skipped()
    {
        byte[] image = Sound();
        Put(image, ExtensionStart, 4, 0x12345678);
        Put(image, ExtensionStart + 4, 4, 13);
        using Qcow2Device device = Qcow2Device.Open(FileOf(image), new FormatOpenArguments());
        Assert.Equal(64 * ClusterSize, device.Length);
    }

    [Fact]
    public void Unknown_features_are_called_by_the_name_the_image_gives_them()
    {
        byte[] image = Sound();
        Put(image, Incompatible, 8, (1UL << 17) | (1UL << 33));
        Put(image, ExtensionStart, 4, 0x6803f857);
        Put(image, ExtensionStart + 4, 4, 2 * 48);
        int entries = ExtensionStart + 8;

        // Bit 33 of the compatible features has a name that must not be taken for that of the incompatible ones.
        (image[entries], image[entries + 1]) = (0, 17);
        Encoding.ASCII.GetBytes("time travel").CopyTo(image, entries + 2);
        (image[entries + 48], image[entries + 49]) = (1, 33);
        Encoding.ASCII.GetBytes("harmless").CopyTo(image, entries + 50);
        ShouldRefuse(image, Unsupported, "time travel, bit 33");
    }

    [Fact]
    public void A_name_that_an_image_gives_a_feature_stays_on_one_line()
    {
        byte[] image = Sound();
        Put(image, Incompatible, 8, 1UL << 17);
        Put(image, ExtensionStart, 4, 0x6803f857);
        Put(image, ExtensionStart + 4, 4, 48);
        image[ExtensionStart + 9] = 17;
        Encoding.ASCII.GetBytes("two\nlines\u001b[2J").CopyTo(image, ExtensionStart + 10);
        ShouldRefuse(image, Unsupported, "two");
    }

    [Fact]
    public void Every_shorter_file_is_refused_or_lacks_only_data()
    {
        byte[] image = Sound();
        int tables = (int)Math.Max(Get(image, 40), Get(image, 48));
        for (int length = 0; length <= tables; length += length < 128 ? 1 : 61)
            ShouldRefuse(image[..length], Invalid, "");
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Garbage_is_not_an_image(int seed)
    {
        ShouldRefuse(Stamp.Bytes(0, 100_000, (ulong)seed), Invalid, "not a qcow2 image");
        byte[] garbage = Stamp.Bytes(0, 100_000, (ulong)seed);
        Put(garbage, 0, 4, 0x514649fb);
        ShouldRefuse(garbage, Unsupported, "version");
    }

    private static byte[] Sound()
    {
        using MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = 64 * ClusterSize, ClusterSize = ClusterSize });
        byte[] bytes = new byte[file.Length];
        file.Read(0, bytes);
        return bytes;
    }

    private static void Put(byte[] image, int offset, int bytes, ulong value)
    {
        byte[] number = new byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(number, value);
        number.AsSpan(8 - bytes).CopyTo(image.AsSpan(offset));
    }

    private static ulong Get(byte[] image, int offset) => BinaryPrimitives.ReadUInt64BigEndian(image.AsSpan(offset));

    private static MemoryDevice FileOf(byte[] bytes)
    {
        MemoryDevice file = new(0, long.MaxValue, "hostile.qcow2");
        file.Write(0, bytes);
        return file;
    }

    private static void ShouldRefuse(byte[] image, BlockErrorKind kind, string expected, string what = "")
    {
        using MemoryDevice file = FileOf(image);
        BlockException failure = Assert.Throws<BlockException>(
            () => Qcow2Device.Open(file, new FormatOpenArguments()));
        Assert.True(kind == failure.Kind, $"{what}: {failure.Kind} instead of {kind}: {failure.Message}");
        Assert.StartsWith("hostile.qcow2: ", failure.Message, StringComparison.Ordinal);
        Assert.Contains(expected, failure.Message, StringComparison.OrdinalIgnoreCase);
        Assert.DoesNotContain(failure.Message, char.IsControl);
        byte[] after = new byte[file.Length];
        file.Read(0, after);
        Assert.True(image.AsSpan().SequenceEqual(after), "the image was written");
    }
}
