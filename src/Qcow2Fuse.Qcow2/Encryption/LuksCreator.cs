// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Crypto;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Encryption;

/// <summary>
/// Makes LUKS headers: a random master key, with key slot 0 for the passphrase and seven free slots, laid out as
/// cryptsetup and QEMU do.
/// </summary>
internal static class LuksCreator
{
    private const int MaterialAlignment = 4096;
    private const int IterationsMin = 1000;
    private const int MeasuredIterationsMin = 20_000;

    /// <summary>Bytes of header and key slots, a multiple of 4096.</summary>
    public static long AreaBytes(EncryptionOptions options) =>
        MaterialAlignment + (LuksHeader.SlotCount * SlotStride(options));

    /// <summary>
    /// The first bytes of the area: the header, and the material of slot 0. What follows in it is zeroes.
    /// </summary>
    /// <exception cref="BlockException">A name or size that is not known.</exception>
    public static byte[] Make(BlockDevice file, EncryptionOptions options)
    {
        var header = new LuksHeader
        {
            Offset = 0,
            CipherName = "aes",
            CipherMode = options.CipherMode,
            HashName = options.HashName,
            PayloadOffset = AreaBytes(options),
            KeyBytes = options.KeyBytes,
            MasterDigest = new byte[LuksHeader.DigestBytes],
            MasterSalt = RandomSalt(),
            MasterIterations = 0,
            Uuid = Guid.NewGuid().ToString("D", CultureInfo.InvariantCulture),
            Slots = [],
        };
        var keys = new LuksKeys(file, header);
        using SecretMemory master = new(options.KeyBytes);
        CryptoHash.FillRandom(master.Span);
        int rounds = options.Iterations ?? Measure(keys.Hash, options);
        byte[] digest = new byte[LuksHeader.DigestBytes];
        header = header with { MasterIterations = Math.Max(rounds / 8, IterationsMin), MasterDigest = digest };
        keys.Hash.DeriveKey(master.Span, header.MasterSalt.Span, header.MasterIterations, digest);

        LuksSlot[] slots = new LuksSlot[LuksHeader.SlotCount];
        for (int i = 0; i < slots.Length; i++)
        {
            slots[i] = new LuksSlot(
                i, IsActive: i == 0, i == 0 ? Math.Max(rounds, IterationsMin) : 0,
                i == 0 ? RandomSalt() : new byte[LuksHeader.SaltBytes],
                MaterialAlignment + (i * SlotStride(options)), LuksHeader.StripeCount);
        }

        header = header with { Slots = slots };
        byte[] area = new byte[MaterialAlignment + SlotStride(options)];
        Encode(header, area);
        keys.SealSlot(slots[0], options.Secrets[0], master.Span, area.AsSpan(MaterialAlignment));
        return area;
    }

    private static long SlotStride(EncryptionOptions options)
    {
        long material = (long)options.KeyBytes * LuksHeader.StripeCount;
        return (material + MaterialAlignment - 1) / MaterialAlignment * MaterialAlignment;
    }

    private static byte[] RandomSalt()
    {
        byte[] salt = new byte[LuksHeader.SaltBytes];
        CryptoHash.FillRandom(salt);
        return salt;
    }

    /// <summary>How many rounds take the time that was asked for, of a processor with nothing else to do.</summary>
    private static int Measure(CryptoHash hash, EncryptionOptions options)
    {
        using SecretMemory key = new(options.KeyBytes);
        TimeSpan enough = TimeSpan.FromMilliseconds(100);
        for (int rounds = MeasuredIterationsMin; ; rounds *= 4)
        {
            TimeSpan before = Environment.CpuUsage.UserTime;
            hash.DeriveKey("passphrase"u8, new byte[LuksHeader.SaltBytes], rounds, key.Span);
            TimeSpan taken = Environment.CpuUsage.UserTime - before;
            if (taken < enough)
                continue;
            double wanted = rounds * (options.IterationTime / taken);
            return (int)Math.Clamp(wanted, IterationsMin, LuksHeader.IterationsMax / 2);
        }
    }

    private static void Encode(LuksHeader header, Span<byte> bytes)
    {
        LuksHeader.Magic.CopyTo(bytes);
        bytes[7] = 1;
        Encoding.ASCII.GetBytes(header.CipherName, bytes[8..]);
        Encoding.ASCII.GetBytes(header.CipherMode, bytes[40..]);
        Encoding.ASCII.GetBytes(header.HashName, bytes[72..]);
        BigEndian.U32(bytes, 104, (uint)(header.PayloadOffset / LuksHeader.SectorBytes));
        BigEndian.U32(bytes, 108, (uint)header.KeyBytes);
        header.MasterDigest.Span.CopyTo(bytes[112..]);
        header.MasterSalt.Span.CopyTo(bytes[132..]);
        BigEndian.U32(bytes, 164, (uint)header.MasterIterations);
        Encoding.ASCII.GetBytes(header.Uuid, bytes[168..]);
        foreach (LuksSlot slot in header.Slots)
        {
            Span<byte> at = bytes[(LuksHeader.SlotsOffset + (slot.Index * LuksHeader.SlotBytes))..];
            BigEndian.U32(at, 0, slot.IsActive ? LuksHeader.SlotActive : LuksHeader.SlotInactive);
            BigEndian.U32(at, 4, (uint)slot.Iterations);
            slot.Salt.Span.CopyTo(at[8..]);
            BigEndian.U32(at, 40, (uint)(slot.MaterialOffset / LuksHeader.SectorBytes));
            BigEndian.U32(at, 44, (uint)slot.Stripes);
        }
    }
}
