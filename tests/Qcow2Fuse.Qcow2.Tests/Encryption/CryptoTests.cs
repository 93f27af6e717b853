// SPDX-License-Identifier: MIT
using System.Security.Cryptography;
using Qcow2Fuse.Linux.Crypto;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Encryption;

/// <summary>libcrypto as it is called here, beside the runtime's own classes and published vectors.</summary>
public sealed class CryptoTests
{
    [Theory]
    [InlineData("sha1", "SHA1")]
    [InlineData("sha256", "SHA256")]
    [InlineData("sha384", "SHA384")]
    [InlineData("sha512", "SHA512")]
    [InlineData("SHA256", "SHA256")]
    public void Hashes_and_derived_keys_are_those_of_the_runtime(string name, string runtimeName)
    {
        CryptoHash hash = CryptoHash.Find(name)!;
        HashAlgorithmName known = new(runtimeName);
        byte[] data = Stamp.Bytes(0, 1000, 1), digest = new byte[hash.Size], key = new byte[77];
        hash.Digest(data, digest);
        Assert.Equal(CryptographicOperations.HashData(known, data), digest);
        hash.DeriveKey("pass"u8, "salt"u8, 123, key);
        Assert.Equal(Rfc2898DeriveBytes.Pbkdf2("pass"u8, "salt"u8, 123, known, key.Length), key);
    }

    [Theory]
    [InlineData("ripemd160", "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc")]
    [InlineData("sha224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7")]
    [InlineData("md5", "900150983cd24fb0d6963f7d28e17f72")]
    public void Hashes_the_runtime_lacks_are_those_of_their_publications(string name, string ofAbc)
    {
        CryptoHash hash = CryptoHash.Find(name)!;
        byte[] digest = new byte[hash.Size];
        hash.Digest("abc"u8, digest);
        Assert.Equal(ofAbc, Convert.ToHexStringLower(digest));
    }

    [Theory]
    [InlineData("sha3")]
    [InlineData("sha256 ")]
    [InlineData("aes-256-cbc")]
    [InlineData("")]
    public void Other_names_are_no_hashes(string name) => Assert.Null(CryptoHash.Find(name));

    /// <summary>IEEE 1619-2007, annex B, vectors 4 and 10: data units of 512 bytes.</summary>
    [Theory]
    [InlineData(
        "27182818284590452353602874713526", "31415926535897932384626433832795", 0, "27a7479befa1d476489f308cd4cfa6e2")]
    [InlineData(
        "2718281828459045235360287471352662497757247093699959574966967627",
        "3141592653589793238462643383279502884197169399375105820974944592", 255, "1c3b3a102f770386e4836c99e370cf9b")]
    public void Xts_is_that_of_the_standard(string key1, string key2, int unit, string firstBlock)
    {
        using SectorCipher cipher = new(
            new SectorCipherSpec(SectorChaining.Xts, SectorIv.Plain64), Convert.FromHexString(key1 + key2));
        byte[] data = [.. Enumerable.Range(0, 512).Select(static i => (byte)i)];
        cipher.Encrypt(unit, data);
        Assert.Equal(firstBlock, Convert.ToHexStringLower(data.AsSpan(0, 16)));
        cipher.Decrypt(unit, data);
        Assert.Equal(Enumerable.Range(0, 512).Select(static i => (byte)i), data);
    }

    [Fact]
    public void Plain_counts_sectors_in_32_bits_and_plain64_in_64()
    {
        byte[] key = Stamp.Bytes(0, 32, 1);
        using SectorCipher plain = new(new SectorCipherSpec(SectorChaining.Cbc, SectorIv.Plain), key);
        using SectorCipher plain64 = new(new SectorCipherSpec(SectorChaining.Cbc, SectorIv.Plain64), key);
        const long Far = (1L << 32) + 5;
        Assert.Equal(Sector(plain, 5), Sector(plain64, 5));
        Assert.Equal(Sector(plain, 5), Sector(plain, Far));
        Assert.NotEqual(Sector(plain64, 5), Sector(plain64, Far));
    }

    [Fact]
    public void Many_threads_share_a_cipher()
    {
        using SectorCipher cipher = new(
            new SectorCipherSpec(SectorChaining.Cbc, SectorIv.Essiv, CryptoHash.Find("sha256")), Stamp.Bytes(0, 32, 1));
        Parallel.For(0, 400, new ParallelOptions { MaxDegreeOfParallelism = 32 }, i =>
        {
            byte[] data = Stamp.Bytes(0, 4096, (ulong)i), expected = [.. data];
            cipher.Encrypt(i * 8L, data);
            Assert.NotEqual(expected, data);
            for (int sector = 0; sector < 8; sector++)
                cipher.Decrypt((i * 8L) + sector, data.AsSpan(sector * 512, 512));
            Assert.Equal(expected, data);
        });
    }

    [Fact]
    public void Keys_of_other_lengths_are_refused()
    {
        SectorCipherSpec xts = new(SectorChaining.Xts, SectorIv.Plain64), cbc = new(SectorChaining.Cbc, SectorIv.Plain);
        Assert.Throws<ArgumentOutOfRangeException>(() => new SectorCipher(xts, new byte[16]));
        Assert.Throws<ArgumentOutOfRangeException>(() => new SectorCipher(cbc, new byte[64]));
        Assert.Throws<CryptographicException>(() => new SectorCipher(xts, new byte[32]));
    }

    private static byte[] Sector(SectorCipher cipher, long number)
    {
        byte[] data = new byte[512];
        cipher.Encrypt(number, data);
        return data;
    }
}
