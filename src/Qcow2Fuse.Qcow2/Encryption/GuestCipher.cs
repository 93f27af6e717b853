// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Codecs;
using Qcow2Fuse.Linux.Crypto;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Encryption;

/// <summary>
/// How the guest's data in an image is encrypted: the cipher with its key, and which number a sector has
/// (specification sections "Header", crypt_method, and "Full disk encryption (LUKS) header extension").
/// </summary>
internal sealed class GuestCipher : IDisposable
{
    private const int MethodAes = 1;
    private const int AesKeyBytes = 16;
    private const byte NewLine = 10;

    private readonly SectorCipher _cipher;
    private readonly bool _byHost;

    private GuestCipher(SectorCipher cipher, bool byHost)
    {
        _cipher = cipher;
        _byHost = byHost;
    }

    /// <summary>The cipher of an image, or null for an image that is not encrypted.</summary>
    /// <exception cref="BlockException">No passphrase was given, or none opens the image; or the LUKS header is
    /// invalid or uses something not supported.</exception>
    public static GuestCipher? Open(BlockDevice file, Qcow2Header header, ImageSecrets? secrets)
    {
        if (header.EncryptionMethod == 0)
            return null;
        try
        {
            return header.EncryptionMethod == MethodAes
                ? OpenAes(file, secrets)
                : OpenLuks(file, LuksHeader.Read(file, header), secrets);
        }
        catch (CodecUnavailableException e)
        {
            throw new BlockException(BlockErrorKind.UnsupportedFeature, $"{file.Name}: {e.Message}", e,
                new(FailureCode.PackageMissing) { Name = e.Package });
        }
    }

    /// <summary>
    /// Encrypts whole sectors in place that lie at <paramref name="host"/> and are the guest's bytes from
    /// <paramref name="guest"/> on.
    /// </summary>
    public void Encrypt(long guest, long host, Span<byte> data) => _cipher.Encrypt(SectorOf(guest, host), data);

    /// <summary>The reverse of <see cref="Encrypt"/>.</summary>
    public void Decrypt(long guest, long host, Span<byte> data) => _cipher.Decrypt(SectorOf(guest, host), data);

    public void Dispose() => _cipher.Dispose();

    private long SectorOf(long guest, long host) => (_byHost ? host : guest) / SectorCipher.SectorBytes;

    /// <summary>
    /// The old method: AES of 128 bits, the key is the passphrase itself, cut or filled with zeroes. Any passphrase
    /// opens, and a wrong one reads noise.
    /// </summary>
    private static GuestCipher OpenAes(BlockDevice file, ImageSecrets? secrets)
    {
        if (secrets is not { Count: > 0 })
            throw Missing(file, "AES");
        using SecretMemory key = new(AesKeyBytes);
        secrets[0][..Math.Min(secrets[0].Length, AesKeyBytes)].CopyTo(key.Span);
        return new GuestCipher(
            new SectorCipher(new SectorCipherSpec(SectorChaining.Cbc, SectorIv.Plain64), key.Span), byHost: false);
    }

    private static GuestCipher OpenLuks(BlockDevice file, LuksHeader header, ImageSecrets? secrets)
    {
        LuksKeys keys = new(file, header);
        if (!header.Slots.Any(static slot => slot.IsActive))
            throw new BlockException(
                BlockErrorKind.InvalidFormat, $"{file.Name}: the image is encrypted (LUKS) and has no active key slot");
        if (secrets is not { Count: > 0 })
            throw Missing(file, "LUKS");
        DerivationTime time = new(keys.Hash, secrets.TimeMax);
        TimeSpan? tooLong = null;
        bool endsInNewLine = false;
        for (int i = 0; i < secrets.Count; i++)
        {
            if (keys.TryUnlock(secrets[i], time, ref tooLong) is { } cipher)
                return new GuestCipher(cipher, byHost: true);
            endsInNewLine |= secrets[i] is [.., NewLine];
        }

        if (tooLong is { } needed)
        {
            throw new BlockException(
                BlockErrorKind.TooLarge,
                $"{file.Name}: to try a key slot would take {Math.Ceiling(needed.TotalSeconds):0} s, and for all of "
                + $"them {secrets.TimeMax.TotalSeconds:0} s are allowed",
                cause: FailureCode.UnlockTime);
        }

        throw new BlockException(
            BlockErrorKind.PermissionDenied,
            secrets.Count == 1
                ? $"{file.Name}: the passphrase opens no key slot"
                : $"{file.Name}: none of the {secrets.Count} passphrases opens a key slot",
            cause: endsInNewLine ? FailureCode.PassphraseEndsInNewline : null);
    }

    private static BlockException Missing(BlockDevice file, string method) => new(
        BlockErrorKind.PermissionDenied,
        $"{file.Name}: the image is encrypted ({method})",
        cause: FailureCode.PassphraseNeeded);
}
