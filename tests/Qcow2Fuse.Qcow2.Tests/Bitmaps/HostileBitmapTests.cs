// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Bitmaps;

/// <summary>
/// Extensions, directories and tables that must not be believed, and bitmaps that cannot be kept: the image can be
/// read, one line says why it is not written, and nothing is lost unless that was asked for.
/// </summary>
public sealed class HostileBitmapTests
{
    private const int ClusterSize = 4096;
    private const long Size = 4 << 20;

    /// <summary>Offset from the extension's content, the directory's start or the table's start.</summary>
    [Theory]
    [InlineData('x', 0, 4, 0UL, "counts 0 bitmaps")]
    [InlineData('x', 0, 4, 65536UL, "counts 65536 bitmaps")]
    [InlineData('x', 0, 4, 1UL, "more than 1 bitmaps")]
    [InlineData('x', 0, 4, 3UL, "2 bitmaps instead of 3")]
    [InlineData('x', 4, 4, 1UL, "reserved")]
    [InlineData('x', 8, 8, 0UL, "0 bytes long")]
    [InlineData('x', 8, 8, ulong.MaxValue, "bytes long")]
    [InlineData('x', 8, 8, 60UL << 20, "beyond the end")]
    [InlineData('x', 8, 8, 60UL, "inside an entry")]
    [InlineData('x', 16, 8, 0UL, "not aligned or beyond")]
    [InlineData('x', 16, 8, 4097UL, "not aligned or beyond")]
    [InlineData('x', 16, 8, 1UL << 40, "not aligned or beyond")]
    [InlineData('x', 16, 8, ulong.MaxValue - 4095, "not aligned or beyond")]
    [InlineData('d', 0, 8, 0UL, "has its table at 0")]
    [InlineData('d', 0, 8, 4100UL, "has its table at 4100")]
    [InlineData('d', 0, 8, 1UL << 60, "has its table at")]
    [InlineData('d', 8, 4, 0UL, "table of 0 entries instead of 1")]
    [InlineData('d', 8, 4, 0xffffffffUL, "entries instead of 1")]
    [InlineData('d', 12, 4, 10UL, "unknown flags 0xa")]
    [InlineData('d', 16, 1, 2UL, "unknown type 2")]
    [InlineData('d', 16, 1, 0UL, "unknown type 0")]
    [InlineData('d', 17, 1, 8UL, "granularity of 2^8")]
    [InlineData('d', 17, 1, 32UL, "granularity of 2^32")]
    [InlineData('d', 17, 1, 255UL, "granularity of 2^255")]
    [InlineData('d', 18, 2, 0UL, "name of 0 bytes")]
    [InlineData('d', 18, 2, 1024UL, "name of 1024 bytes")]
    [InlineData('d', 20, 4, 0xffffffffUL, "inside an entry")]
    [InlineData('d', 20, 4, 0x7fffffffUL, "inside an entry")]
    [InlineData('t', 0, 8, 2UL, "invalid table entry 0x2")]
    [InlineData('t', 0, 8, 4097UL, "invalid table entry 0x1001")]
    [InlineData('t', 0, 8, 4608UL, "invalid table entry 0x1200")]
    [InlineData('t', 0, 8, 1UL << 56, "invalid table entry")]
    [InlineData('t', 0, 8, 1UL << 50, "invalid table entry")]
    public void A_wrong_field_is_named_and_keeps_the_image_from_being_written(
        char where, int offset, int bytes, ulong value, string reason)
    {
        using TestImage image = Sample();
        image.Close();
        long extension = ExtensionOf(image);
        long directory = (long)image.PeekBigEndian(extension + 16);
        long start = where switch { 'x' => extension, 'd' => directory, _ => (long)image.PeekBigEndian(directory) };
        image.Poke(start + offset, value, bytes);
        byte[] before = image.Disk.Current.ToArray();

        BlockException e = Assert.Throws<BlockException>(() => image.Reopen());
        Assert.Contains(reason, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
        ImageReferences references = new Qcow2Format().Inspect(image.Disk);
        Assert.Contains(reason, references.WriteLoss, StringComparison.Ordinal);
        using (Qcow2Device readOnly = Qcow2Device.Open(image.Disk, new FormatOpenArguments { ReadOnly = true }))
            readOnly.Read(0, new byte[4096]);
        Assert.Equal(before, image.Disk.Current.ToArray());

        using (Qcow2Device given = Qcow2Device.Open(image.Disk, new FormatOpenArguments { AllowLoss = true }))
        {
            Assert.Empty(given.Bitmaps);
            given.Write(0, new byte[512]);
        }

        Assert.Equal(0UL, image.PeekBigEndian(88));
        Assert.Empty(image.Plain.Check().Errors);
    }

    [Fact]
    public void Random_damage_neither_hangs_nor_takes_memory()
    {
        byte[] sound;
        long extension;
        using (TestImage image = Sample())
        {
            image.Close();
            sound = image.Disk.Current.ToArray();
            extension = ExtensionOf(image);
        }

        int refused = 0;
        for (ulong seed = 1; seed <= 1500; seed++)
        {
            SeededRandom random = new(seed);
            byte[] bytes = [.. sound];
            long directory = (long)BigEndian.U64(bytes, (int)extension + 16);
            long table = (long)BigEndian.U64(bytes, (int)directory);
            for (int i = random.Below(3); i >= 0; i--)
            {
                long at = random.Pick(extension, directory, directory, table) + random.Below(random.Pick(24, 100));
                bytes[at] = (byte)(random.Chance(50) ? random.Below(256) : bytes[at] ^ (1 << random.Below(8)));
            }

            MemoryDevice file = new(0);
            file.Write(0, bytes);
            ProcessorWatch watch = ProcessorWatch.StartNew();
            try
            {
                using Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments());
                foreach (BitmapInfo bitmap in device.Bitmaps)
                    Assert.NotEmpty(bitmap.Name);
                device.Write(0, new byte[5000]);
                device.AddBitmap("one more", 0, enabled: true);
                device.RemoveBitmap(device.Bitmaps[0].Name);
            }
            catch (BlockException e)
            {
                refused++;
                Assert.DoesNotContain('\n', e.Message);
            }

            watch.ShouldBeBelow(TimeSpan.FromSeconds(5), $"seed {seed}");
        }

        Assert.InRange(refused, 300, 1499);
    }

    [Fact]
    public void Names_of_two_bitmaps_are_not_equal()
    {
        using TestImage image = Sample();
        image.Close();
        long directory = (long)image.PeekBigEndian(ExtensionOf(image) + 16);
        image.Poke(directory + 32 + 24, (ulong)'a', 1);
        BlockException e = Assert.Throws<BlockException>(() => image.Reopen());
        Assert.Contains("two bitmaps are called 'a'", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(4U, true)]
    [InlineData(0U, false)]
    public void Extra_data_is_kept_where_the_bitmap_says_so_and_else_keeps_the_image_from_being_written(
        uint flag, bool compatible)
    {
        using TestImage image = Sample();
        image.Close();
        long extension = ExtensionOf(image);
        long directory = (long)image.PeekBigEndian(extension + 16);

        // Entry "a" gets 11 bytes of extra data before its name; entry "b" moves.
        byte[] old = new byte[64];
        image.Disk.Read(directory, old);
        byte[] made = new byte[32 + 8 + 32];
        old.AsSpan(0, 24).CopyTo(made);
        made[15] = (byte)(2 | flag);
        made[23] = 11;
        Stamp.Bytes(0, 11, 9).CopyTo(made, 24);
        made[35] = (byte)'a';
        old.AsSpan(32, 32).CopyTo(made.AsSpan(40));
        image.Disk.Write(directory, made);
        image.Poke(extension + 8, (ulong)made.Length);
        if (!compatible)
        {
            Assert.Contains("extra data", Assert.Throws<BlockException>(() => image.Reopen()).Message,
                StringComparison.Ordinal);
            return;
        }

        image.Reopen();
        image.Write(1 << 20, 1000, 3);
        ((Qcow2Device)image.Device).AddBitmap("c", 0, enabled: false);
        image.Close();
        directory = (long)image.PeekBigEndian(extension + 16);
        byte[] now = new byte[40];
        image.Disk.Read(directory, now);
        Assert.Equal(made[12..36], now[12..36]);
        PlainBitmap bitmap = PlainBitmaps.Read(image.Plain)[0];
        Assert.True(bitmap.Bits![(1 << 20) / 4096]);
        Assert.Equal(0, image.Plain.Check().Leaks);
    }

    [Fact]
    public void The_first_write_clears_unknown_autoclear_bits_and_keeps_the_one_of_the_bitmaps()
    {
        using TestImage image = Sample();
        image.Close().Poke(88, 0x8000_0000_0000_0041).Reopen();
        image.ShouldReadZeroes(1 << 20, 512);
        Assert.Equal(0x8000_0000_0000_0041, image.PeekBigEndian(88));
        image.Write(0, 512, 1);
        Assert.Equal(1UL, image.PeekBigEndian(88));
        ((Qcow2Device)image.Device).RemoveBitmap("a");
        Assert.Equal(1UL, image.PeekBigEndian(88));
        ((Qcow2Device)image.Device).RemoveBitmap("b");
        Assert.Equal(0UL, image.PeekBigEndian(88));
        image.Close();
        Assert.DoesNotContain(
            Qcow2HeaderReader.Read(image.Disk).Extensions,
            static extension => extension.Type == HeaderExtension.Bitmaps);
        image.Reopen().ShouldPassCheck();
    }

    [Fact]
    public void Without_the_autoclear_bit_the_extension_means_nothing()
    {
        using TestImage image = Sample();
        image.Close().Poke(88, 0).Reopen();
        Qcow2Device device = (Qcow2Device)image.Device;
        Assert.Empty(device.Bitmaps);
        image.Write(0, 512, 1);
        device.AddBitmap("new", 0, enabled: true);
        image.Close();
        Assert.Equal(["new"], PlainBitmaps.Read(image.Plain).Select(bitmap => bitmap.Name));
        image.Reopen().ShouldPassCheck(allowLeaks: true);
    }

    [Fact]
    public void Bitmaps_that_do_not_fit_into_memory_keep_the_image_from_being_written()
    {
        // A disk of 4 TiB with a bit for each sector: 1 GiB of bits. The table is of the right length and empty.
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 4L << 40, ClusterSize = 65536 });
        Qcow2Device device = (Qcow2Device)image.Device;
        Assert.Equal(
            BlockErrorKind.TooLarge,
            Assert.Throws<BlockException>(() => device.AddBitmap("fine", 512, enabled: true)).Kind);
        device.AddBitmap("coarse", 0, enabled: true);
        image.Close();
        long directory = (long)image.PeekBigEndian(ExtensionOf(image) + 16);
        image.Poke(directory + 17, 9, bytes: 1);
        Assert.Contains("512 MiB of memory", Assert.Throws<BlockException>(() => image.Reopen()).Message,
            StringComparison.Ordinal);
    }

    /// <summary>Bitmap "a", which records and has bits, and bitmap "b", which does not.</summary>
    private static TestImage Sample()
    {
        TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = Size, ClusterSize = ClusterSize });
        Qcow2Device device = (Qcow2Device)image.Device;
        device.AddBitmap("a", 4096, enabled: true);
        device.AddBitmap("b", 512, enabled: false);
        image.Write(100_000, 100_000, 1);
        return image.Reopen();
    }

    private static long ExtensionOf(TestImage image)
    {
        long at = (long)image.PeekBigEndian(100, bytes: 4);
        while (image.PeekBigEndian(at, bytes: 4) != HeaderExtension.Bitmaps)
            at += 8 + (((long)image.PeekBigEndian(at + 4, bytes: 4) + 7) & ~7);
        return at + 8;
    }
}
