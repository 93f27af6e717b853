// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Core;

/// <summary>
/// The first cluster of an image as bytes: fixed fields, header extensions, end marker, backing file name;
/// specification sections "Header" and "Header extensions".
/// </summary>
internal sealed class HeaderCluster
{
    /// <summary>What a disk writes wholly or not at all.</summary>
    public const int SectorBytes = 512;

    private const int NameBytesMax = 1023;
    private readonly int _fieldsEnd;
    private readonly int _listStart;

    private HeaderCluster(byte[] bytes, Qcow2Header header, int listEnd)
    {
        Bytes = bytes;
        Header = header;
        _fieldsEnd = Math.Min(Qcow2HeaderWriter.FieldsBytes(header), Qcow2HeaderWriter.Version3Bytes);
        _listStart = header.HeaderLength;
        ListEnd = listEnd;
    }

    /// <summary>The whole cluster.</summary>
    public byte[] Bytes { get; }

    /// <summary>The header these bytes hold.</summary>
    public Qcow2Header Header { get; }

    /// <summary>Where the list of extensions ends, its end marker included.</summary>
    public int ListEnd { get; }

    /// <summary>Where the backing file's name ends.</summary>
    public int NameEnd => Header.BackingNameOffset + Header.BackingNameBytes;

    /// <summary>Whether a part of the backing file's name lies in a range.</summary>
    public bool HasNameIn(int start, int end) => Header.BackingNameOffset < end && NameEnd > start;

    /// <summary>Reads the cluster of an open image whose header is known.</summary>
    public static HeaderCluster Read(BlockDevice file, Qcow2Header header)
    {
        var bytes = new byte[1 << header.ClusterBits];
        file.ReadPadded(0, bytes);
        int end = header.HeaderLength;
        foreach (HeaderExtension extension in header.Extensions)
            end += SpaceOf(extension);
        int limit = header.BackingNameOffset > 0 ? header.BackingNameOffset : bytes.Length;
        return new HeaderCluster(bytes, header, Math.Min(end + 8, limit));
    }

    /// <summary>
    /// These bytes changed into what <paramref name="header"/> says, its extensions beginning at its header length.
    /// The backing file's name stays where it is if it fits there, unless <paramref name="moveName"/>; else it follows
    /// the extensions. Null where the cluster has no room.
    /// </summary>
    public HeaderCluster? With(Qcow2Header header, bool moveName)
    {
        int listEnd = header.HeaderLength + 8;
        foreach (HeaderExtension extension in header.Extensions)
            listEnd += SpaceOf(extension);
        byte[] name = NameBytes(header);
        bool stays = !moveName && name.Length == Header.BackingNameBytes && Header.BackingNameOffset >= listEnd;
        int nameOffset = name.Length == 0 ? 0 : stays ? Header.BackingNameOffset : listEnd;
        if (listEnd > Bytes.Length || nameOffset + name.Length > Bytes.Length)
            return null;
        var bytes = (byte[])Bytes.Clone();
        header = header with { BackingNameOffset = nameOffset, BackingNameBytes = name.Length };
        if (header.HeaderLength > Header.HeaderLength && Header.HeaderLength < Qcow2HeaderWriter.Version3Bytes)
            bytes.AsSpan(Header.HeaderLength..Qcow2HeaderWriter.Version3Bytes).Clear();
        Qcow2HeaderWriter.Encode(header, bytes);
        int at = header.HeaderLength;
        foreach (HeaderExtension extension in header.Extensions)
        {
            BigEndian.U32(bytes, at, extension.Type);
            BigEndian.U32(bytes, at + 4, (uint)extension.Content.Length);
            extension.Content.Span.CopyTo(bytes.AsSpan(at + 8));
            int padded = at + SpaceOf(extension);
            bytes.AsSpan(at + 8 + extension.Content.Length, padded - at - 8 - extension.Content.Length).Clear();
            at = padded;
        }

        bytes.AsSpan(at, 8).Clear();
        name.CopyTo(bytes, nameOffset);
        return new HeaderCluster(bytes, header, listEnd);
    }

    /// <summary>The sectors in which two clusters differ, in order.</summary>
    public List<int> SectorsThatDiffer(HeaderCluster other)
    {
        var sectors = new List<int>();
        for (int at = 0; at < Bytes.Length; at += SectorBytes)
        {
            if (!Bytes.AsSpan(at, SectorBytes).SequenceEqual(other.Bytes.AsSpan(at, SectorBytes)))
                sectors.Add(at / SectorBytes);
        }

        return sectors;
    }

    /// <summary>Whether none of the bytes of a sector that differ from <paramref name="changed"/> is in use.</summary>
    public bool IsUnusedWhereChanged(HeaderCluster changed, int sector)
    {
        for (int at = sector * SectorBytes; at < (sector + 1) * SectorBytes; at++)
        {
            if (Bytes[at] != changed.Bytes[at] && IsUsed(at))
                return false;
        }

        return true;
    }

    private static int SpaceOf(HeaderExtension extension) => 8 + ((extension.Content.Length + 7) & ~7);

    private bool IsUsed(int at) =>
        at < _fieldsEnd
        || (at >= _listStart && at < ListEnd)
        || (at >= Header.BackingNameOffset && at < Header.BackingNameOffset + Header.BackingNameBytes);

    /// <summary>An unchanged name keeps its bytes, whatever they are.</summary>
    private byte[] NameBytes(Qcow2Header header)
    {
        if (string.Equals(header.BackingFile, Header.BackingFile, StringComparison.Ordinal))
            return Bytes.AsSpan(Header.BackingNameOffset, Header.BackingNameBytes).ToArray();
        byte[] name = header.BackingFile is null ? [] : ByteText.Encode(header.BackingFile);
        if (name.Length > NameBytesMax)
            throw new BlockException(
                BlockErrorKind.InvalidFormat, $"backing file name of {name.Length} bytes is too long");
        return name;
    }
}
