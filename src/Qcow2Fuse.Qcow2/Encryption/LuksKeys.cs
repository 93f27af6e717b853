// SPDX-License-Identifier: MIT
using System.Security.Cryptography;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Crypto;

namespace Qcow2Fuse.Qcow2.Encryption;

/// <summary>From a passphrase and a LUKS header to the cipher of the data.</summary>
internal sealed class LuksKeys
{
    private readonly BlockDevice _file;
    private readonly LuksHeader _header;
    private readonly SectorCipherSpec _spec;

    /// <exception cref="BlockException">The header names a cipher or hash that is not there.</exception>
    public LuksKeys(BlockDevice file, LuksHeader header)
    {
        _file = file;
        _header = header;
        Hash = CryptoHash.Find(header.HashName) ?? throw Unsupported($"the hash {header.HashName}");
        _spec = SpecOf(header) is { } spec && spec.TakesKeyOf(header.KeyBytes)
            ? spec
            : throw Unsupported($"{header.CipherName}-{header.CipherMode} with a key of {header.KeyBytes * 8} bits");
    }

    /// <summary>The hash of all derivations.</summary>
    public CryptoHash Hash { get; }

    /// <summary>
    /// Tries the passphrase on every active slot for which there is time; null if it opens none. The caller disposes
    /// the cipher.
    /// </summary>
    /// <param name="passphrase">The passphrase.</param>
    /// <param name="time">The time there is; what is tried is counted.</param>
    /// <param name="tooLong">Becomes the time that a slot takes that was left out.</param>
    public SectorCipher? TryUnlock(ReadOnlySpan<byte> passphrase, DerivationTime time, ref TimeSpan? tooLong)
    {
        using SecretMemory master = new(_header.KeyBytes);
        foreach (LuksSlot slot in _header.Slots)
        {
            if (!slot.IsActive)
                continue;
            TimeSpan needed = time.Of(slot.Iterations, _header.KeyBytes)
                + time.Of(_header.MasterIterations, LuksHeader.DigestBytes);
            if (!time.Admits(needed))
                tooLong ??= needed;
            else if (TryOpenSlot(slot, passphrase, master.Span))
                return CipherWith(master.Span);
        }

        return null;
    }

    /// <summary>
    /// Writes the key material of a slot that the passphrase opens to the start of <paramref name="material"/>.
    /// </summary>
    public void SealSlot(
        LuksSlot slot, ReadOnlySpan<byte> passphrase, ReadOnlySpan<byte> master, Span<byte> material)
    {
        using SecretMemory slotKey = new(_header.KeyBytes);
        Hash.DeriveKey(passphrase, slot.Salt.Span, slot.Iterations, slotKey.Span);
        using SecretMemory split = new(SplitBytes(slot));
        AntiForensic.Split(master, split.Span, Hash);
        using (SectorCipher cipher = CipherWith(slotKey.Span))
            cipher.Encrypt(sector: 0, split.Span);
        split.Span.CopyTo(material);
    }

    /// <summary>The meaning of the cipher's names, or null where it is not known here.</summary>
    private static SectorCipherSpec? SpecOf(LuksHeader header)
    {
        if (header.CipherName is not "aes")
            return null;
        int dash = header.CipherMode.IndexOf('-', StringComparison.Ordinal);
        if (dash < 0)
            return null;
        SectorChaining? chaining = header.CipherMode[..dash] switch
        {
            "xts" => SectorChaining.Xts,
            "cbc" => SectorChaining.Cbc,
            _ => null,
        };
        const string Essiv = "essiv:";
        string iv = header.CipherMode[(dash + 1)..];
        if (chaining is not { } known)
            return null;
        if (iv is "plain")
            return new SectorCipherSpec(known, SectorIv.Plain);
        if (iv is "plain64")
            return new SectorCipherSpec(known, SectorIv.Plain64);
        return iv.StartsWith(Essiv, StringComparison.Ordinal)
            && CryptoHash.Find(iv[Essiv.Length..]) is { Size: 16 or 32 } hash
                ? new SectorCipherSpec(known, SectorIv.Essiv, hash)
                : null;
    }

    private bool TryOpenSlot(LuksSlot slot, ReadOnlySpan<byte> passphrase, Span<byte> master)
    {
        using SecretMemory slotKey = new(_header.KeyBytes);
        Hash.DeriveKey(passphrase, slot.Salt.Span, slot.Iterations, slotKey.Span);
        using SecretMemory split = new(SplitBytes(slot));
        _file.ReadPadded(_header.Offset + slot.MaterialOffset, split.Span);
        using (SectorCipher cipher = CipherWith(slotKey.Span))
            cipher.Decrypt(sector: 0, split.Span);
        AntiForensic.Merge(split.Span, master, Hash);

        Span<byte> digest = stackalloc byte[LuksHeader.DigestBytes];
        Hash.DeriveKey(master, _header.MasterSalt.Span, _header.MasterIterations, digest);
        return CryptographicOperations.FixedTimeEquals(digest, _header.MasterDigest.Span);
    }

    /// <summary>Whole sectors: every key that is taken has 16 bytes or a multiple of them.</summary>
    private int SplitBytes(LuksSlot slot) => _header.KeyBytes * slot.Stripes;

    /// <summary>Key material is encrypted like data, with a key that the passphrase gives.</summary>
    private SectorCipher CipherWith(ReadOnlySpan<byte> key)
    {
        try
        {
            return new SectorCipher(_spec, key);
        }
        catch (CryptographicException e)
        {
            throw new BlockException(BlockErrorKind.UnsupportedFeature, $"{_file.Name}: {e.Message}", e);
        }
    }

    private BlockException Unsupported(string what) => new(
        BlockErrorKind.UnsupportedFeature,
        $"{_file.Name}: the image is encrypted (LUKS) with {what}, which is not supported",
        cause: FailureCode.CipherUnsupported);
}
