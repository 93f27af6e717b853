// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Globalization;
using System.Security.Cryptography;
using Qcow2Fuse.Linux.Codecs;

namespace Qcow2Fuse.Linux.Crypto;

/// <summary>How the blocks of a sector are chained.</summary>
public enum SectorChaining
{
    /// <summary>Cipher block chaining.</summary>
    Cbc,

    /// <summary>XEX with ciphertext stealing (IEEE 1619); the key is two keys of AES.</summary>
    Xts,
}

/// <summary>What makes two sectors with equal content differ.</summary>
public enum SectorIv
{
    /// <summary>The lower 32 bits of the sector's number, little-endian.</summary>
    Plain,

    /// <summary>The sector's number, 64 bits, little-endian.</summary>
    Plain64,

    /// <summary>The sector's number encrypted with a hash of the key.</summary>
    Essiv,
}

/// <summary>A way to encrypt sectors with AES.</summary>
/// <param name="Chaining">How blocks are chained.</param>
/// <param name="Iv">How the number of a sector enters.</param>
/// <param name="EssivHash">For <see cref="SectorIv.Essiv"/>: the hash, of 16 or 32 bytes.</param>
public sealed record SectorCipherSpec(SectorChaining Chaining, SectorIv Iv, CryptoHash? EssivHash = null)
{
    /// <summary>Whether AES of this kind takes keys of so many bytes.</summary>
    public bool TakesKeyOf(int bytes) => Chaining == SectorChaining.Xts ? bytes is 32 or 64 : bytes is 16 or 32;

    /// <summary>libcrypto's name for a key of so many bytes.</summary>
    internal string CipherName(int keyBytes) => Chaining == SectorChaining.Xts
        ? string.Create(CultureInfo.InvariantCulture, $"aes-{keyBytes * 4}-xts")
        : string.Create(CultureInfo.InvariantCulture, $"aes-{keyBytes * 8}-cbc");
}

/// <summary>
/// Encrypts and decrypts runs of sectors of 512 bytes with AES of libcrypto. Safe for any number of threads; contexts
/// are kept for reuse, so that a call allocates no managed memory once as many exist as threads run.
/// </summary>
public sealed unsafe class SectorCipher : IDisposable
{
    /// <summary>Bytes of a sector.</summary>
    public const int SectorBytes = 512;

    private const int BlockBytes = 16;

    private readonly SectorCipherSpec _spec;
    private readonly string _cipher;
    private readonly SecretMemory _key;
    private readonly SecretMemory? _ivKey;
    private readonly CodecPool<Context> _encryptors;
    private readonly CodecPool<Context> _decryptors;

    /// <summary>Prepares the cipher with a copy of <paramref name="key"/>.</summary>
    /// <exception cref="CodecUnavailableException">libcrypto is not installed.</exception>
    /// <exception cref="CryptographicException">libcrypto refuses the key.</exception>
    public SectorCipher(SectorCipherSpec spec, ReadOnlySpan<byte> key)
    {
        if (!spec.TakesKeyOf(key.Length))
            throw new ArgumentOutOfRangeException(nameof(key), key.Length, "no key of AES");
        _spec = spec;
        _cipher = spec.CipherName(key.Length);

        _key = new SecretMemory(key);
        if (spec.Iv == SectorIv.Essiv)
        {
            if (spec.EssivHash is not { Size: 16 or 32 } hash)
                throw new ArgumentException("ESSIV needs a hash of 16 or 32 bytes", nameof(spec));
            _ivKey = new SecretMemory(hash.Size);
            hash.Digest(key, _ivKey.Span);
        }

        _encryptors = new CodecPool<Context>(() => new Context(this, encrypts: true));
        _decryptors = new CodecPool<Context>(() => new Context(this, encrypts: false));
        try
        {
            // libcrypto looks at the key more closely when it is to encrypt; better now than with the first write.
            _decryptors.Return(_decryptors.Rent());
            _encryptors.Return(_encryptors.Rent());
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Encrypts whole sectors in place, the first of which has number <paramref name="sector"/>.</summary>
    public void Encrypt(long sector, Span<byte> data) => Transform(_encryptors, sector, data);

    /// <summary>Decrypts whole sectors in place, the first of which has number <paramref name="sector"/>.</summary>
    public void Decrypt(long sector, Span<byte> data) => Transform(_decryptors, sector, data);

    /// <inheritdoc/>
    public void Dispose()
    {
        _encryptors?.Clear();
        _decryptors?.Clear();
        _key.Dispose();
        _ivKey?.Dispose();
    }

    private void Transform(CodecPool<Context> pool, long sector, Span<byte> data)
    {
        if (data.Length % SectorBytes != 0)
            throw new ArgumentOutOfRangeException(nameof(data), data.Length, "not whole sectors");
        Context context = pool.Rent();
        byte* iv = stackalloc byte[BlockBytes];
        Span<byte> ivBytes = new(iv, BlockBytes);
        fixed (byte* bytes = data)
        {
            for (int at = 0; at < data.Length; at += SectorBytes, sector++)
            {
                ivBytes.Clear();
                long number = _spec.Iv == SectorIv.Plain ? (uint)sector : sector;
                BinaryPrimitives.WriteInt64LittleEndian(ivBytes, number);
                context.Iv?.Transform(iv: null, iv, iv, BlockBytes);
                context.Data.Transform(iv, bytes + at, bytes + at, SectorBytes);
            }
        }

        pool.Return(context);
    }

    /// <summary>What one thread needs for one direction.</summary>
    private sealed class Context : IDisposable
    {
        public Context(SectorCipher owner, bool encrypts)
        {
            Data = new CipherContext(owner._cipher, owner._key.Span, encrypts);
            if (owner._ivKey is { } ivKey)
                Iv = new CipherContext(
                    string.Create(CultureInfo.InvariantCulture, $"aes-{ivKey.Span.Length * 8}-ecb"),
                    ivKey.Span,
                    encrypts: true);
        }

        public CipherContext Data { get; }

        public CipherContext? Iv { get; }

        public void Dispose()
        {
            Data.Dispose();
            Iv?.Dispose();
        }
    }
}
