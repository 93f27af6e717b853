// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Globalization;
using System.Security.Cryptography;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>The content of the bitmaps extension; specification section "Bitmaps extension".</summary>
/// <param name="Count">Number of bitmaps, 1 to 65535.</param>
/// <param name="DirectoryBytes">Length of the bitmap directory.</param>
/// <param name="Directory">Where it lies, cluster aligned.</param>
internal readonly record struct BitmapExtension(int Count, int DirectoryBytes, HostOffset Directory)
{
    public byte[] Encode()
    {
        var bytes = new byte[24];
        BigEndian.U32(bytes, 0, (uint)Count);
        BigEndian.U64(bytes, 8, (ulong)DirectoryBytes);
        BigEndian.U64(bytes, 16, (ulong)Directory.Value);
        return bytes;
    }
}

/// <summary>One entry of the bitmap directory; specification section "Bitmap directory".</summary>
internal sealed record BitmapEntry
{
    /// <summary>Bytes of the fields before extra data and name.</summary>
    public const int FieldsBytes = 24;

    /// <summary>Where the flags lie in an entry. Entries are aligned to eight bytes: the flags never tear.</summary>
    public const int FlagsOffset = 12;

    public const uint InUse = 1;

    public const uint Auto = 2;

    /// <summary>Extra data that is not understood may be left alone.</summary>
    public const uint ExtraDataCompatible = 4;

    public required ulong Table { get; init; }

    public required uint TableEntries { get; init; }

    public required uint Flags { get; init; }

    public required byte Type { get; init; }

    public required byte GranularityBits { get; init; }

    public required byte[] ExtraData { get; init; }

    public required byte[] NameBytes { get; init; }

    public string Name => ByteText.Decode(NameBytes);

    /// <summary>Bytes of the entry with its padding.</summary>
    public int Length => (FieldsBytes + ExtraData.Length + NameBytes.Length + 7) & ~7;

    /// <summary>What about this entry is not understood, as the end of a sentence; or null.</summary>
    public string? NotUnderstood
    {
        get
        {
            if ((Flags & ~(InUse | Auto | ExtraDataCompatible)) != 0)
                return string.Create(CultureInfo.InvariantCulture, $"has unknown flags 0x{Flags:x}");
            if (Type != 1)
                return string.Create(CultureInfo.InvariantCulture, $"is of unknown type {Type}");
            if (GranularityBits is < BitmapDirectory.GranularityBitsMin or > BitmapDirectory.GranularityBitsMax)
                return string.Create(CultureInfo.InvariantCulture, $"has a granularity of 2^{GranularityBits} bytes");
            return ExtraData.Length > 0 && (Flags & ExtraDataCompatible) == 0 ? "has extra data of unknown kind" : null;
        }
    }
}

/// <summary>Reads and writes bitmap directories. Nothing is believed before it was compared with a limit.</summary>
internal static class BitmapDirectory
{
    public const int GranularityBitsMin = 9;
    public const int GranularityBitsMax = 31;
    public const int NameBytesMax = 1023;
    public const int BitmapsMax = 65535;

    /// <summary>Bytes of extra data of a bitmap at most. Nobody writes any.</summary>
    public const int ExtraBytesMax = 1024;

    private const long DirectoryBytesMax = BitmapsMax * 1024L;

    /// <summary>
    /// The bitmaps extension of an image whose autoclear bit vouches for it; null where there is none.
    /// </summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.InvalidFormat"/>: a field is invalid.</exception>
    public static BitmapExtension? Extension(BlockDevice file, Qcow2Header header)
    {
        if ((header.Autoclear & FeatureBits.Bitmaps) == 0)
            return null;
        ReadOnlyMemory<byte>? content = null;
        foreach (HeaderExtension extension in header.Extensions)
        {
            if (extension.Type == HeaderExtension.Bitmaps)
                content ??= extension.Content;
        }

        if (content is null)
            return null;
        ReadOnlySpan<byte> fields = content.Value.Span;
        uint count = BigEndian.U32(fields, 0);
        ulong bytes = BigEndian.U64(fields, 8);
        ulong offset = BigEndian.U64(fields, 16);
        if (count is 0 or > BitmapsMax)
            throw Invalid(file, $"the bitmaps extension counts {count} bitmaps");
        if (BigEndian.U32(fields, 4) != 0)
            throw Invalid(file, "the bitmaps extension has reserved bits set");
        if (bytes is 0 or > DirectoryBytesMax)
            throw Invalid(file, $"the bitmap directory is {bytes} bytes long");
        if (offset == 0 || (offset & ((1UL << header.ClusterBits) - 1)) != 0 || offset > (ulong)file.Length
            || bytes > (ulong)file.Length - offset)
            throw Invalid(file, $"the bitmap directory at {offset} is not aligned or beyond the end of the file");
        return new BitmapExtension((int)count, (int)bytes, new HostOffset((long)offset));
    }

    /// <summary>Reads the entries of the directory that an extension names, one after the other; it is never in memory
    /// as a whole.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.InvalidFormat"/>: it is damaged.</exception>
    public static IEnumerable<BitmapEntry> Read(BlockDevice file, BitmapExtension extension)
    {
        var table = new TableParts(file, extension.Directory.Value, extension.DirectoryBytes);
        var names = new HashSet<UInt128>();
        int at = 0;
        while (at < extension.DirectoryBytes)
        {
            if (names.Count == extension.Count)
                throw Invalid(file, $"the bitmap directory holds more than {extension.Count} bitmaps");
            BitmapEntry entry = ReadEntry(file, table, at, extension.DirectoryBytes - at);
            if (!names.Add(NameKey(entry.NameBytes)))
                throw Invalid(file, $"two bitmaps are called '{Printable.Text(entry.Name)}'");
            yield return entry;
            at += entry.Length;
        }

        if (names.Count != extension.Count)
            throw Invalid(file, $"the bitmap directory holds {names.Count} bitmaps instead of {extension.Count}");
    }

    /// <summary>Stands for a name, of which there may be many long ones: no two are known that have the same.</summary>
    private static UInt128 NameKey(byte[] name) =>
        BinaryPrimitives.ReadUInt128LittleEndian(SHA256.HashData(name));

    /// <summary>The bytes of a directory.</summary>
    public static byte[] Encode(IReadOnlyList<BitmapEntry> entries)
    {
        int length = 0;
        foreach (BitmapEntry entry in entries)
            length = checked(length + entry.Length);
        var bytes = new byte[length];
        int at = 0;
        foreach (BitmapEntry entry in entries)
        {
            Span<byte> target = bytes.AsSpan(at, entry.Length);
            BigEndian.U64(target, 0, entry.Table);
            BigEndian.U32(target, 8, entry.TableEntries);
            BigEndian.U32(target, BitmapEntry.FlagsOffset, entry.Flags);
            target[16] = entry.Type;
            target[17] = entry.GranularityBits;
            target[18] = (byte)(entry.NameBytes.Length >> 8);
            target[19] = (byte)entry.NameBytes.Length;
            BigEndian.U32(target, 20, (uint)entry.ExtraData.Length);
            entry.ExtraData.CopyTo(target[BitmapEntry.FieldsBytes..]);
            entry.NameBytes.CopyTo(target[(BitmapEntry.FieldsBytes + entry.ExtraData.Length)..]);
            at += entry.Length;
        }

        return bytes;
    }

    private static BitmapEntry ReadEntry(BlockDevice file, TableParts table, int at, int left)
    {
        ReadOnlySpan<byte> rest = table.At(at, BitmapEntry.FieldsBytes);
        if (rest.Length < BitmapEntry.FieldsBytes)
            throw Invalid(file, "the bitmap directory ends inside an entry");
        int nameBytes = BigEndian.U16(rest, 18);
        uint extraBytes = BigEndian.U32(rest, 20);
        if (nameBytes is 0 or > NameBytesMax)
            throw Invalid(file, $"a bitmap has a name of {nameBytes} bytes");
        if (((BitmapEntry.FieldsBytes + nameBytes + (long)extraBytes + 7) & ~7L) > left)
            throw Invalid(file, "the bitmap directory ends inside an entry");
        if (extraBytes > ExtraBytesMax)
            throw Invalid(file, $"a bitmap has {extraBytes} bytes of extra data, more than {ExtraBytesMax}");
        rest = table.At(at, BitmapEntry.FieldsBytes + nameBytes + (int)extraBytes);
        return new BitmapEntry
        {
            Table = BigEndian.U64(rest, 0),
            TableEntries = BigEndian.U32(rest, 8),
            Flags = BigEndian.U32(rest, BitmapEntry.FlagsOffset),
            Type = rest[16],
            GranularityBits = rest[17],
            ExtraData = rest.Slice(BitmapEntry.FieldsBytes, (int)extraBytes).ToArray(),
            NameBytes = rest.Slice(BitmapEntry.FieldsBytes + (int)extraBytes, nameBytes).ToArray(),
        };
    }

    private static BlockException Invalid(BlockDevice file, string reason) =>
        BlockException.About(file.Name, BlockErrorKind.InvalidFormat, reason);
}
