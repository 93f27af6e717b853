// SPDX-License-Identifier: MIT
using System.Security.Cryptography;
using System.Text;
using Qcow2Fuse.Linux.Codecs;

namespace Qcow2Fuse.Linux.Crypto;

/// <summary>A hash function of libcrypto, and the key derivation PBKDF2 (RFC 8018) over it.</summary>
public sealed unsafe class CryptoHash
{
    /// <summary>The names disk encryption uses; libcrypto knows more that are no hashes of bytes.</summary>
    private static readonly string[] Names =
        ["sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "md5"];

    private readonly CryptoLibrary _library;
    private readonly void* _digest;

    private CryptoHash(CryptoLibrary library, void* digest, string name)
    {
        _library = library;
        _digest = digest;
        Name = name;
        Size = library.DigestSize(digest);
    }

    /// <summary>The name in lower case: <c>sha256</c>.</summary>
    public string Name { get; }

    /// <summary>Bytes of a hash.</summary>
    public int Size { get; }

    /// <summary>The hash called <paramref name="name"/>, or null where it is not known.</summary>
    /// <exception cref="CodecUnavailableException">libcrypto is not installed.</exception>
    public static CryptoHash? Find(string name)
    {
        string? known = Array.Find(Names, n => string.Equals(n, name, StringComparison.OrdinalIgnoreCase));
        if (known is null)
            return null;
        CryptoLibrary library = CryptoLibrary.Instance;
        fixed (byte* text = Encoding.ASCII.GetBytes(known + "\0"))
        {
            void* digest = library.DigestByName(text);
            if (digest == null)
                return null;
            CryptoHash hash = new(library, digest, known);

            // A hash may have a name and yet be in no provider that is active.
            Span<byte> probe = stackalloc byte[hash.Size];
            return hash.TryDigest([], probe) ? hash : null;
        }
    }

    /// <summary>Fills <paramref name="target"/> with random bytes that nobody can guess.</summary>
    /// <exception cref="CodecUnavailableException">libcrypto is not installed.</exception>
    public static void FillRandom(Span<byte> target)
    {
        fixed (byte* bytes = target)
        {
            if (CryptoLibrary.Instance.RandomBytes(bytes, target.Length) != 1)
                throw new CryptographicException("libcrypto has no random numbers");
        }
    }

    /// <summary>Hashes <paramref name="data"/> into <paramref name="hash"/> of <see cref="Size"/> bytes.</summary>
    public void Digest(ReadOnlySpan<byte> data, Span<byte> hash)
    {
        if (!TryDigest(data, hash))
            throw new CryptographicException($"libcrypto cannot hash with {Name}");
    }

    /// <summary>Derives <paramref name="key"/> from a passphrase in <paramref name="iterations"/> rounds.</summary>
    public void DeriveKey(
        ReadOnlySpan<byte> passphrase, ReadOnlySpan<byte> salt, int iterations, Span<byte> key)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(iterations);
        fixed (byte* pass = passphrase, from = salt, to = key)
        {
            int result = _library.Pbkdf2(
                pass, passphrase.Length, from, salt.Length, iterations, _digest, key.Length, to);
            if (result != 1)
                throw new CryptographicException($"libcrypto cannot derive a key with {Name}");
        }
    }

    private bool TryDigest(ReadOnlySpan<byte> data, Span<byte> hash)
    {
        if (hash.Length != Size)
            throw new ArgumentOutOfRangeException(nameof(hash), hash.Length, "not the size of the hash");
        uint written;
        fixed (byte* from = data, to = hash)
            return _library.Digest(from, (nuint)data.Length, to, &written, _digest, null) == 1;
    }
}
