// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Diagnostics;
using System.Text;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Crypto;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Encryption;

/// <summary>LUKS headers that must not be believed: each is one sentence, at once, and nothing is written.</summary>
public sealed class HostileLuksTests
{
    private const int ClusterSize = 4096;
    private const int Slot0 = 208;
    private const int Slot3 = 208 + (3 * 48);
    private const uint Active = 0x00AC71F3;
    private const BlockErrorKind Invalid = BlockErrorKind.InvalidFormat;
    private const BlockErrorKind Unsupported = BlockErrorKind.UnsupportedFeature;
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(5);

    /// <summary>Field (offset in the LUKS header), bytes, value, kind of error, part of the message.</summary>
    [Theory]
    [InlineData(0, 4, 0x4c554b54UL, Invalid, "no LUKS header")]
    [InlineData(4, 2, 0UL, Invalid, "no LUKS header")]
    [InlineData(6, 2, 0UL, Unsupported, "LUKS version 0 ")]
    [InlineData(6, 2, 2UL, Unsupported, "LUKS version 2 ")]
    [InlineData(6, 2, 0xffffUL, Unsupported, "LUKS version 65535 ")]
    [InlineData(8, 1, 0UL, Invalid, "name of a cipher")]
    [InlineData(40, 1, 0UL, Invalid, "name of a cipher mode")]
    [InlineData(72, 1, 0UL, Invalid, "name of a hash")]
    [InlineData(108, 4, 0UL, Invalid, "master key of 0 bytes")]
    [InlineData(108, 4, 65UL, Invalid, "master key of 65 bytes")]
    [InlineData(108, 4, 0xffffffffUL, Invalid, "master key of 4294967295 bytes")]
    [InlineData(108, 4, 33UL, Unsupported, "with a key of 264 bits")]
    [InlineData(108, 4, 16UL, Unsupported, "aes-xts-plain64 with a key of 128 bits")]
    [InlineData(164, 4, 0UL, Invalid, "0 iterations for the master key")]
    [InlineData(164, 4, 0x80000000UL, Invalid, "2147483648 iterations for the master key")]
    [InlineData(164, 4, 0xffffffffUL, Invalid, "4294967295 iterations for the master key")]
    [InlineData(164, 4, 0x0fffffffUL, Invalid, "more than 268435456")]
    [InlineData(Slot0, 4, 0UL, Invalid, "key slot 0 is in the invalid state 0x00000000")]
    [InlineData(Slot0, 4, 0x0000deadUL, Invalid, "no active key slot")]
    [InlineData(Slot0 + 4, 4, 0UL, Invalid, "0 iterations for key slot 0")]
    [InlineData(Slot0 + 4, 4, 0xffffffffUL, Invalid, "4294967295 iterations for key slot 0")]
    [InlineData(Slot0 + 40, 4, 0UL, Invalid, "key material of LUKS key slot 0 at 0 ")]
    [InlineData(Slot0 + 40, 4, 1UL, Invalid, "key material of LUKS key slot 0 at 512 ")]
    [InlineData(Slot0 + 40, 4, 0x7fffffffUL, Invalid, "key material of LUKS key slot 0")]
    [InlineData(Slot0 + 40, 4, 0xffffffffUL, Invalid, "key material of LUKS key slot 0")]
    [InlineData(Slot0 + 44, 4, 0UL, Invalid, "0 stripes")]
    [InlineData(Slot0 + 44, 4, 3999UL, Invalid, "3999 stripes")]
    [InlineData(Slot0 + 44, 4, 0xffffffffUL, Invalid, "4294967295 stripes")]
    [InlineData(Slot3, 4, Active, Invalid, "0 iterations for key slot 3")]
    public void A_field_is_refused_by_name(int offset, int bytes, ulong value, BlockErrorKind kind, string expected)
    {
        byte[] image = Sound(out int luks);
        Put(image, luks + offset, bytes, value);
        ShouldRefuse(image, kind, expected);
    }

    [Fact]
    public void What_would_take_too_long_is_not_begun()
    {
        byte[] image = Sound(out int luks);
        Put(image, luks + Slot0 + 4, 4, (1 << 28) - 10_000_000);
        using ImageSecrets secrets = new(new SecretMemory(EncryptedImages.Passphrase.Span))
        {
            TimeMax = TimeSpan.FromSeconds(2),
        };
        using MemoryDevice file = new();
        file.Write(0, image);
        FormatOpenArguments arguments = new() { ReadOnly = true, Secrets = secrets };
        Stopwatch taken = Stopwatch.StartNew();
        BlockException refused = Assert.Throws<BlockException>(() => Qcow2Device.Open(file, arguments));
        Assert.Equal((BlockErrorKind.TooLarge, FailureCode.UnlockTime), (refused.Kind, refused.Cause?.Code));
        Assert.Contains(" s, and for all of them 2 s are allowed", refused.Message, StringComparison.Ordinal);
        Assert.InRange(taken.Elapsed, TimeSpan.Zero, Soon);

        // A slot that costs little is tried although another one costs too much.
        Assert.Equal(BlockErrorKind.PermissionDenied, Assert.Throws<BlockException>(() => Qcow2Device.Open(
            Copy(Sound(out _)), arguments with { Secrets = EncryptedImages.Secrets("no"u8) })).Kind);
        using Qcow2Device sound = Qcow2Device.Open(Copy(Sound(out _)), arguments);

        static MemoryDevice Copy(byte[] bytes)
        {
            MemoryDevice copy = new();
            copy.Write(0, bytes);
            return copy;
        }
    }

    [Theory]
    [InlineData(0, 0UL, "LUKS header offset 0")]
    [InlineData(0, 4097UL, "LUKS header offset 4097")]
    [InlineData(0, 0x4000_0000_0000_0000UL, "LUKS header length")]
    [InlineData(0, 0xffff_ffff_ffff_f000UL, "LUKS header length")]
    [InlineData(8, 0UL, "LUKS header length 0 ")]
    [InlineData(8, 591UL, "LUKS header length 591 ")]
    [InlineData(8, 592UL, "key material of LUKS key slot 0")]
    [InlineData(8, 0xffff_ffff_ffff_ffffUL, "LUKS header length")]
    public void The_pointer_of_the_image_is_checked(int offset, ulong value, string expected)
    {
        byte[] image = Sound(out _);
        int extension = image.AsSpan(0, ClusterSize).IndexOf(new byte[] { 0x05, 0x37, 0xbe, 0x77 });
        Put(image, extension + 8 + offset, 8, value);
        ShouldRefuse(image, Invalid, expected);
        Put(image, extension, 4, 0x12345678);
        ShouldRefuse(image, Invalid, "names no LUKS header");
    }

    [Theory]
    [InlineData(8, "serpent", Unsupported, "serpent-xts-plain64 with")]
    [InlineData(8, "aes\n[2J", Unsupported, "aes\\x0a")]
    [InlineData(40, "xts", Unsupported, "aes-xts with")]
    [InlineData(40, "xts-", Unsupported, "aes-xts- with")]
    [InlineData(40, "ctr-plain64", Unsupported, "aes-ctr-plain64")]
    [InlineData(40, "xts-essiv:sha1", Unsupported, "aes-xts-essiv:sha1")]
    [InlineData(40, "xts-essiv:", Unsupported, "aes-xts-essiv:")]
    [InlineData(40, "xts-plain64-and-much-more-of-it-x", Invalid, "name of a cipher mode")]
    [InlineData(72, "whirlpool", Unsupported, "the hash whirlpool")]
    [InlineData(72, "aes-256-xts", Unsupported, "the hash aes-256-xts")]
    public void Names_that_mean_nothing_here_are_refused(int offset, string name, BlockErrorKind kind, string expected)
    {
        byte[] image = Sound(out int luks);
        image.AsSpan(luks + offset, 32).Clear();
        Encoding.ASCII.GetBytes(name)[..Math.Min(32, name.Length)].CopyTo(image, luks + offset);
        ShouldRefuse(image, kind, expected);
    }

    [Fact]
    public void Many_slots_may_not_ask_for_more_work_than_one()
    {
        byte[] image = Sound(out int luks);
        for (int slot = 0; slot < 8; slot++)
        {
            image.AsSpan(luks + Slot0, 48).CopyTo(image.AsSpan(luks + Slot0 + (slot * 48)));
            Put(image, luks + Slot0 + (slot * 48) + 4, 4, 40_000_000);
        }

        ShouldRefuse(image, Invalid, "iterations, more than 268435456");
    }

    [Fact]
    public void Damaged_key_material_opens_nothing()
    {
        byte[] image = Sound(out int luks);
        image[luks + 4096 + 70_000] ^= 1;
        ShouldRefuse(image, BlockErrorKind.PermissionDenied, "the passphrase opens no key slot");
    }

    [Fact]
    public void A_missing_or_wrong_passphrase_is_one_sentence_with_a_cause()
    {
        byte[] image = Sound(out _);
        BlockException missing = ShouldRefuse(image, BlockErrorKind.PermissionDenied, "", secrets: null);
        Assert.Equal("hostile.qcow2: the image is encrypted (LUKS)", missing.Message);
        Assert.Equal(FailureCode.PassphraseNeeded, missing.Cause?.Code);
        using ImageSecrets wrong = EncryptedImages.Secrets("a passphrasE"u8);
        BlockException refused = ShouldRefuse(image, BlockErrorKind.PermissionDenied, "", wrong);
        Assert.Equal("hostile.qcow2: the passphrase opens no key slot", refused.Message);
        Assert.Null(refused.Cause);
        using ImageSecrets two = new(new SecretMemory("b"u8), new SecretMemory("a passphrase\n"u8));
        refused = ShouldRefuse(image, BlockErrorKind.PermissionDenied, "", two);
        Assert.Equal("hostile.qcow2: none of the 2 passphrases opens a key slot", refused.Message);
        Assert.Equal(FailureCode.PassphraseEndsInNewline, refused.Cause?.Code);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [Trait(Speed.Name, Speed.Slow)]
    public void A_header_with_any_byte_changed_opens_or_is_one_sentence(int seed)
    {
        byte[] sound = Sound(out int luks);
        SeededRandom random = new((ulong)seed);
        for (int i = 0; i < 150; i++)
        {
            byte[] image = [.. sound];
            image[luks + random.Below(592)] ^= (byte)(1 << random.Below(8));

            // Rounds may have become many, but allowed: that is work, and not what is looked for.
            if (Get(image, luks + 164) > 100_000 || Get(image, luks + Slot0 + 4) > 100_000)
                continue;
            using MemoryDevice file = FileOf(image);
            using ImageSecrets secrets = EncryptedImages.Secrets(EncryptedImages.Passphrase.Span);
            try
            {
                Qcow2Device.Open(file, new FormatOpenArguments { Secrets = secrets, ReadOnly = true }).Dispose();
            }
            catch (BlockException failure)
            {
                Assert.StartsWith("hostile.qcow2: ", failure.Message, StringComparison.Ordinal);
                Assert.DoesNotContain(failure.Message, char.IsControl);
            }
        }
    }

    private static byte[] Sound(out int luks)
    {
        using MemoryDevice file = new(0);
        Qcow2Creator.Create(file, new Qcow2CreateOptions
        {
            Size = 64 * ClusterSize,
            ClusterSize = ClusterSize,
            Encryption = EncryptedImages.Luks("xts-plain64"),
        });
        byte[] bytes = new byte[file.Length];
        file.Read(0, bytes);
        luks = (int)new PlainHeader(new ArrayImage(bytes)).Encryption.Offset;
        return bytes;
    }

    private static void Put(byte[] image, int offset, int bytes, ulong value)
    {
        byte[] number = new byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(number, value);
        number.AsSpan(8 - bytes).CopyTo(image.AsSpan(offset));
    }

    private static uint Get(byte[] image, int offset) => BinaryPrimitives.ReadUInt32BigEndian(image.AsSpan(offset));

    private static MemoryDevice FileOf(byte[] bytes)
    {
        MemoryDevice file = new(0, long.MaxValue, "hostile.qcow2");
        file.Write(0, bytes);
        return file;
    }

    private static void ShouldRefuse(byte[] image, BlockErrorKind kind, string expected)
    {
        using ImageSecrets secrets = EncryptedImages.Secrets(EncryptedImages.Passphrase.Span);
        ShouldRefuse(image, kind, expected, secrets);
    }

    private static BlockException ShouldRefuse(
        byte[] image, BlockErrorKind kind, string expected, ImageSecrets? secrets)
    {
        using MemoryDevice file = FileOf(image);
        ProcessorWatch watch = ProcessorWatch.StartNew();
        BlockException failure = Assert.Throws<BlockException>(
            () => Qcow2Device.Open(file, new FormatOpenArguments { Secrets = secrets }));
        watch.ShouldBeBelow(Soon, "the refusal");
        Assert.True(kind == failure.Kind, $"{failure.Kind} instead of {kind}: {failure.Message}");
        Assert.StartsWith("hostile.qcow2: ", failure.Message, StringComparison.Ordinal);
        Assert.Contains(expected, failure.Message, StringComparison.Ordinal);
        Assert.DoesNotContain(failure.Message, char.IsControl);
        byte[] after = new byte[file.Length];
        file.Read(0, after);
        Assert.True(image.AsSpan().SequenceEqual(after), "the image was written");
        return failure;
    }
}
