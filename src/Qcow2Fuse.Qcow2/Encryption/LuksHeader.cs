// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Encryption;

/// <summary>A key slot of a LUKS header.</summary>
/// <param name="Index">Its number, 0 to 7.</param>
/// <param name="IsActive">Whether a passphrase opens it.</param>
/// <param name="Iterations">Rounds of PBKDF2 from the passphrase to the slot's key; meaningful when active.</param>
/// <param name="Salt">32 bytes that enter the derivation.</param>
/// <param name="MaterialOffset">Where its key material lies, in bytes from the start of the LUKS header.</param>
/// <param name="Stripes">Stripes the key material consists of.</param>
public sealed record LuksSlot(
    int Index, bool IsActive, int Iterations, ReadOnlyMemory<byte> Salt, long MaterialOffset, int Stripes);

/// <summary>
/// A LUKS header of version 1 (LUKS On-Disk Format Specification 1.2.3, "PHDR"), in the clusters of an image to which
/// the encryption extension points. Every field is checked before it is believed.
/// </summary>
public sealed record LuksHeader
{
    /// <summary>Bytes of the header.</summary>
    public const int Bytes = 592;

    /// <summary>Key slots.</summary>
    public const int SlotCount = 8;

    /// <summary>Stripes of every key slot.</summary>
    public const int StripeCount = 4000;

    /// <summary>
    /// Rounds of PBKDF2 that opening may take at most, over all active slots: more than a minute of work is not what
    /// anybody's tool wrote.
    /// </summary>
    public const long IterationsMax = 1 << 28;

    /// <summary>"LUKS" and two bytes that are no text.</summary>
    internal static ReadOnlySpan<byte> Magic => [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe];

    internal const int SectorBytes = 512;
    internal const int SlotsOffset = 208;
    internal const int SlotBytes = 48;
    internal const int SaltBytes = 32;
    internal const int DigestBytes = 20;
    internal const uint SlotActive = 0x00ac71f3;
    internal const uint SlotInactive = 0x0000dead;
    private const int NameBytes = 32;
    private const int KeyBytesMax = 64;

    /// <summary>Name of the cipher: <c>aes</c>.</summary>
    public required string CipherName { get; init; }

    /// <summary>Chaining and initialisation vector: <c>xts-plain64</c>.</summary>
    public required string CipherMode { get; init; }

    /// <summary>Name of the hash used for all derivations: <c>sha256</c>.</summary>
    public required string HashName { get; init; }

    /// <summary>Where the data of a plain LUKS volume would begin, in bytes; of no meaning in an image.</summary>
    public required long PayloadOffset { get; init; }

    /// <summary>Bytes of the master key.</summary>
    public required int KeyBytes { get; init; }

    /// <summary>20 bytes derived from the master key, by which it is recognised.</summary>
    public required ReadOnlyMemory<byte> MasterDigest { get; init; }

    /// <summary>32 bytes that enter this derivation.</summary>
    public required ReadOnlyMemory<byte> MasterSalt { get; init; }

    /// <summary>Its rounds of PBKDF2.</summary>
    public required int MasterIterations { get; init; }

    /// <summary>The volume's UUID as text.</summary>
    public required string Uuid { get; init; }

    /// <summary>All eight slots.</summary>
    public required IReadOnlyList<LuksSlot> Slots { get; init; }

    /// <summary>Where the header lies in the image file.</summary>
    public required long Offset { get; init; }

    /// <summary>Reads the header of an image whose encryption method is LUKS.</summary>
    /// <exception cref="BlockException">It is missing, or a field is invalid.</exception>
    public static LuksHeader Read(BlockDevice file, Qcow2Header image)
    {
        (long offset, long length) = Area(file, image);
        byte[] bytes = new byte[Bytes];
        file.Read(offset, bytes);
        if (!bytes.AsSpan(0, Magic.Length).SequenceEqual(Magic))
            throw Invalid(file, "there is no LUKS header where the image says it is");
        int version = (bytes[6] << 8) | bytes[7];
        if (version != 1)
            throw new BlockException(
                BlockErrorKind.UnsupportedFeature, $"{file.Name}: LUKS version {version} is not supported, only 1");
        uint keyBytes = BigEndian.U32(bytes, 108);
        if (keyBytes is 0 or > KeyBytesMax)
            throw Invalid(file, $"a LUKS master key of {keyBytes} bytes (1 to {KeyBytesMax} are allowed)");

        long iterations = CheckIterations(file, BigEndian.U32(bytes, 164), "the master key");
        LuksSlot[] slots = new LuksSlot[SlotCount];
        for (int i = 0; i < SlotCount; i++)
        {
            slots[i] = ReadSlot(file, bytes.AsMemory(SlotsOffset + (i * SlotBytes), SlotBytes), i, length, keyBytes);
            if (slots[i].IsActive)
                iterations += slots[i].Iterations + BigEndian.U32(bytes, 164);
        }

        if (iterations > IterationsMax)
            throw Invalid(file, $"the LUKS header asks for {iterations} iterations, more than {IterationsMax}");
        return new LuksHeader
        {
            Offset = offset,
            CipherName = ReadName(file, bytes, 8, "cipher"),
            CipherMode = ReadName(file, bytes, 40, "cipher mode"),
            HashName = ReadName(file, bytes, 72, "hash"),
            PayloadOffset = (long)BigEndian.U32(bytes, 104) * SectorBytes,
            KeyBytes = (int)keyBytes,
            MasterDigest = bytes.AsMemory(112, DigestBytes),
            MasterSalt = bytes.AsMemory(132, SaltBytes),
            MasterIterations = (int)BigEndian.U32(bytes, 164),
            Uuid = Text(bytes.AsSpan(168, 40)),
            Slots = slots,
        };
    }

    /// <summary>The clusters that the encryption extension of the image names.</summary>
    private static (long Offset, long Length) Area(BlockDevice file, Qcow2Header image)
    {
        HeaderExtension extension = image.Extensions.FirstOrDefault(static e => e.Type == HeaderExtension.Crypto)
            ?? throw Invalid(file, "the image is encrypted with LUKS and names no LUKS header");
        ulong offset = BigEndian.U64(extension.Content.Span, 0);
        ulong length = BigEndian.U64(extension.Content.Span, 8);
        ulong mask = (1UL << image.ClusterBits) - 1;
        if (offset == 0 || (offset & mask) != 0)
            throw Invalid(file, $"invalid LUKS header offset {offset}");
        if (length < Bytes || offset > (ulong)file.Length || length > (ulong)file.Length - offset)
            throw Invalid(file, $"invalid LUKS header length {length} at {offset}");
        return ((long)offset, (long)length);
    }

    private static LuksSlot ReadSlot(BlockDevice file, ReadOnlyMemory<byte> slot, int index, long area, uint keyBytes)
    {
        ReadOnlySpan<byte> bytes = slot.Span;
        uint state = BigEndian.U32(bytes, 0);
        long offset = (long)BigEndian.U32(bytes, 40) * SectorBytes;
        uint stripes = BigEndian.U32(bytes, 44);
        if (state is not (SlotActive or SlotInactive))
            throw Invalid(file, $"LUKS key slot {index} is in the invalid state 0x{state:x8}");
        if (state == SlotInactive)
            return new LuksSlot(index, IsActive: false, 0, slot.Slice(8, SaltBytes), offset, 0);
        int iterations = CheckIterations(file, BigEndian.U32(bytes, 4), $"key slot {index}");
        if (stripes != StripeCount)
            throw Invalid(file, $"LUKS key slot {index} has {stripes} stripes, not {StripeCount}");
        if (offset < Bytes || offset > area - (keyBytes * stripes))
            throw Invalid(file, $"the key material of LUKS key slot {index} at {offset} lies outside of the header");
        return new LuksSlot(index, IsActive: true, iterations, slot.Slice(8, SaltBytes), offset, (int)stripes);
    }

    private static int CheckIterations(BlockDevice file, uint iterations, string what)
    {
        if (iterations == 0)
            throw Invalid(file, $"the LUKS header asks for 0 iterations for {what}");
        if (iterations > IterationsMax)
            throw Invalid(
                file, $"the LUKS header asks for {iterations} iterations for {what}, more than {IterationsMax}");
        return (int)iterations;
    }

    private static string ReadName(BlockDevice file, byte[] bytes, int offset, string what)
    {
        string name = Text(bytes.AsSpan(offset, NameBytes));
        if (name.Length is 0 or NameBytes)
            throw Invalid(file, $"the LUKS header has no valid name of a {what}");
        return name;
    }

    /// <summary>Bytes up to the first zero, fit to print whatever they are.</summary>
    private static string Text(ReadOnlySpan<byte> bytes)
    {
        int end = bytes.IndexOf((byte)0);
        return Printable.Text(Encoding.ASCII.GetString(end < 0 ? bytes : bytes[..end]));
    }

    private static BlockException Invalid(BlockDevice file, string reason) =>
        new(BlockErrorKind.InvalidFormat, $"{file.Name}: {reason}");
}
