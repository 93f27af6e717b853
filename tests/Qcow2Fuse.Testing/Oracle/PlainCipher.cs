// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;

namespace Qcow2Fuse.Testing.Oracle;

/// <summary>
/// Decrypts the guest's sectors of an image, written from the specifications of qcow2 and LUKS1 with the runtime's AES
/// and hashes alone: it shares no code with the product.
/// </summary>
public sealed class PlainCipher
{
    private const int SectorSize = 512;
    private const int BlockSize = 16;

    private readonly Aes _data;
    private readonly Aes? _tweak;
    private readonly Aes? _salt;
    private readonly bool _byHost;

    private PlainCipher(string mode, byte[] key, bool byHost)
    {
        string[] parts = mode.Split('-', 2);
        bool isXts = parts[0] == "xts";
        PlainHeader.Require(isXts || parts[0] == "cbc", "cipher mode {0}", mode);
        _data = NewAes(isXts ? key[..(key.Length / 2)] : key);
        _tweak = isXts ? NewAes(key[(key.Length / 2)..]) : null;
        if (parts[1].StartsWith("essiv:", StringComparison.Ordinal))
            _salt = NewAes(CryptographicOperations.HashData(HashOf(parts[1][6..]), key));
        else
            PlainHeader.Require(parts[1] is "plain64", "initialisation vector {0}", parts[1]);
        _byHost = byHost;
    }

    /// <summary>The cipher of an encrypted image.</summary>
    /// <exception cref="PlainReaderException">The passphrase opens no key slot.</exception>
    public static PlainCipher Open(ByteImage file, byte[] passphrase)
    {
        PlainHeader header = new(file);
        if (header.CryptMethod == 1)
        {
            byte[] key = new byte[16];
            passphrase.AsSpan(0, Math.Min(16, passphrase.Length)).CopyTo(key);
            return new PlainCipher("cbc-plain64", key, byHost: false);
        }

        byte[] luks = new byte[header.Encryption.Length];
        file.Read(header.Encryption.Offset, luks);
        PlainHeader.Require(luks.AsSpan(0, 6).SequenceEqual("LUKS"u8.ToArray().Append<byte>(0xba).Append<byte>(0xbe)
            .ToArray()), "no LUKS header at 0x{0:x}", header.Encryption.Offset);
        string mode = Name(luks, 40);
        HashAlgorithmName hash = HashOf(Name(luks, 72));
        int keyLength = (int)Number(luks, 108);
        for (int slot = 208; slot < 208 + (8 * 48); slot += 48)
        {
            if (Number(luks, slot) != 0x00AC71F3)
                continue;
            byte[] slotKey = Rfc2898DeriveBytes.Pbkdf2(
                passphrase, luks.AsSpan(slot + 8, 32), (int)Number(luks, slot + 4), hash, keyLength);
            byte[] split = luks.AsSpan((int)Number(luks, slot + 40) * SectorSize, keyLength * 4000).ToArray();
            PlainCipher slotCipher = new(mode, slotKey, byHost: true);
            for (int at = 0; at < split.Length; at += SectorSize)
                slotCipher.Decrypt(at, at, split.AsSpan(at, SectorSize));
            byte[] key = Merge(split, keyLength, hash);
            byte[] digest = Rfc2898DeriveBytes.Pbkdf2(
                key, luks.AsSpan(132, 32), (int)Number(luks, 164), hash, 20);
            if (digest.AsSpan().SequenceEqual(luks.AsSpan(112, 20)))
                return new PlainCipher(mode, key, byHost: true);
        }

        throw new PlainReaderException("the passphrase opens no key slot");
    }

    /// <summary>Decrypts one sector of 512 bytes that lies at a place and is the guest's at another.</summary>
    public void Decrypt(long guestOffset, long hostOffset, Span<byte> sector)
    {
        byte[] iv = new byte[BlockSize];
        BinaryPrimitives.WriteInt64LittleEndian(iv, (_byHost ? hostOffset : guestOffset) / SectorSize);
        if (_salt is not null)
            iv = _salt.EncryptEcb(iv, PaddingMode.None);
        if (_tweak is null)
        {
            _data.DecryptCbc(sector.ToArray(), iv, sector, PaddingMode.None);
            return;
        }

        byte[] tweaks = Tweaks(_tweak.EncryptEcb(iv, PaddingMode.None), sector.Length);
        Xor(sector, tweaks);
        _data.DecryptEcb(sector.ToArray(), sector, PaddingMode.None);
        Xor(sector, tweaks);
    }

    /// <summary>IEEE 1619: each block's tweak is the one before, times x in GF(2^128).</summary>
    private static byte[] Tweaks(byte[] first, int length)
    {
        byte[] all = new byte[length];
        first.CopyTo(all, 0);
        for (int at = BlockSize; at < length; at += BlockSize)
        {
            int carry = 0;
            for (int i = 0; i < BlockSize; i++)
            {
                int value = all[at - BlockSize + i];
                all[at + i] = (byte)((value << 1) | carry);
                carry = value >> 7;
            }

            if (carry != 0)
                all[at] ^= 0x87;
        }

        return all;
    }

    private static byte[] Merge(byte[] split, int keyLength, HashAlgorithmName hash)
    {
        byte[] key = new byte[keyLength];
        for (int at = 0; at < split.Length; at += keyLength)
        {
            Xor(key, split.AsSpan(at, keyLength));
            if (at + keyLength == split.Length)
                break;
            int size = CryptographicOperations.HashData(hash, []).Length;
            for (int block = 0; block * size < keyLength; block++)
            {
                Span<byte> part = key.AsSpan(block * size, Math.Min(size, keyLength - (block * size)));
                byte[] numbered = [0, 0, 0, (byte)block, .. part];
                CryptographicOperations.HashData(hash, numbered).AsSpan(0, part.Length).CopyTo(part);
            }
        }

        return key;
    }

    private static Aes NewAes(byte[] key)
    {
        Aes aes = Aes.Create();
        aes.Key = key;
        return aes;
    }

    private static void Xor(Span<byte> target, ReadOnlySpan<byte> other)
    {
        for (int i = 0; i < target.Length; i++)
            target[i] ^= other[i];
    }

    private static HashAlgorithmName HashOf(string name) => new(name.ToUpperInvariant());

    private static string Name(byte[] luks, int offset) =>
        Encoding.ASCII.GetString(luks, offset, 32).TrimEnd('\0');

    private static uint Number(byte[] luks, int offset) =>
        BinaryPrimitives.ReadUInt32BigEndian(luks.AsSpan(offset));
}
