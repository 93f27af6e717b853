// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>
/// Reads and checks headers; specification sections "Header" and "Header extensions". Nothing is believed before it
/// has been compared with a limit, and everything refused names the field and its value.
/// </summary>
public static class Qcow2HeaderReader
{
    /// <summary>The first four bytes of an image: "QFI" and 0xfb.</summary>
    public const uint Magic = 0x514649fb;

    /// <summary>The largest L1 table in bytes; QEMU opens no larger one.</summary>
    public const long L1BytesMax = 32L << 20;

    private const int Version2Length = 72;
    private const int Version3LengthMin = 104;
    private const int BackingNameBytesMax = 1023;
    private const long RefcountTableBytesMax = 8L << 20;
    private const int SnapshotsMax = 65536;

    /// <summary>Whether the first bytes of a file are a qcow2 header's (version 2 or later).</summary>
    public static bool Probe(ReadOnlySpan<byte> head) =>
        head.Length >= 8 && BigEndian.U32(head, 0) == Magic && BigEndian.U32(head, 4) >= 2;

    /// <summary>Reads the header of <paramref name="file"/>.</summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.InvalidFormat"/>, <see cref="BlockErrorKind.UnsupportedFeature"/> or
    /// <see cref="BlockErrorKind.TooLarge"/> with the field and its value.
    /// </exception>
    public static Qcow2Header Read(BlockDevice file)
    {
        var fields = new byte[112];
        if (file.Length < Version2Length)
            throw Invalid(file, "not a qcow2 image (too short for a header)");
        file.ReadPadded(0, fields);
        if (BigEndian.U32(fields, 0) != Magic)
            throw Invalid(file, "not a qcow2 image");
        uint version = BigEndian.U32(fields, 4);
        if (version is not (2 or 3))
            throw Unsupported(file, $"unsupported qcow2 version {version}");
        uint clusterBits = BigEndian.U32(fields, 20);
        if (clusterBits is < 9 or > 21)
            throw Invalid(file, $"invalid cluster size 2^{clusterBits} (9 to 21 are allowed)");
        int clusterSize = 1 << (int)clusterBits;

        uint headerLength = version == 2 ? Version2Length : BigEndian.U32(fields, 100);
        if (version == 3 && headerLength < Version3LengthMin)
            throw Invalid(file, $"header length {headerLength} is below {Version3LengthMin}");
        if (headerLength > clusterSize)
            throw Invalid(file, $"header length {headerLength} exceeds the cluster size {clusterSize}");
        if (headerLength > file.Length)
            throw Invalid(file, "the file ends inside the header");

        long backingOffset = (long)Math.Min(BigEndian.U64(fields, 8), long.MaxValue);
        if (backingOffset > clusterSize)
            throw Invalid(file, $"invalid backing file offset {backingOffset}");
        ReadOnlySpan<byte> area = ReadHeaderCluster(file, clusterSize);
        HeaderExtensions extensions = ReadExtensions(
            file, area, (int)headerLength, backingOffset != 0 ? (int)backingOffset : clusterSize);
        CompressionType compression = ReadCompression(file, fields, version, headerLength);
        ulong incompatible = version == 2 ? 0 : BigEndian.U64(fields, 72);
        RefuseUnknownFeatures(file, incompatible, extensions);

        uint refcountOrder = version == 2 ? 4 : BigEndian.U32(fields, 96);
        if (refcountOrder > 6)
            throw Invalid(file, $"refcount width 2^{refcountOrder} bits exceeds 64");
        if ((incompatible & FeatureBits.ExtendedL2) != 0 && clusterBits < 14)
            throw Invalid(file, $"extended L2 entries need clusters of 16384 bytes, not {clusterSize}");

        var header = new Qcow2Header
        {
            Version = (int)version,
            ClusterBits = (int)clusterBits,
            Size = CheckSize(file, BigEndian.U64(fields, 24)),
            EncryptionMethod = CheckEncryption(file, BigEndian.U32(fields, 32)),
            L1Size = CheckL1Size(file, BigEndian.U32(fields, 36)),
            L1Offset = CheckOffset(file, "L1 table", BigEndian.U64(fields, 40), clusterSize),
            RefcountTableOffset = (long)Math.Min(BigEndian.U64(fields, 48), long.MaxValue),
            RefcountTableClusters = (int)Math.Min(BigEndian.U32(fields, 56), int.MaxValue),
            RefcountFault = FaultOf(() => CheckRefcountTable(file, fields, clusterSize)),
            SnapshotCount = (int)Math.Min(BigEndian.U32(fields, 60), int.MaxValue),
            SnapshotsOffset = BigEndian.U32(fields, 60) == 0
                ? 0 : (long)Math.Min(BigEndian.U64(fields, 64), long.MaxValue),
            SnapshotFault = FaultOf(() => CheckSnapshots(file, fields, clusterSize)),
            Incompatible = incompatible,
            Compatible = version == 2 ? 0 : BigEndian.U64(fields, 80),
            Autoclear = version == 2 ? 0 : BigEndian.U64(fields, 88),
            HeaderLength = (int)headerLength,
            RefcountOrder = (int)refcountOrder,
            Compression = compression,
            BackingFile = ReadBackingName(file, area, backingOffset, BigEndian.U32(fields, 16)),
            BackingNameOffset = (int)backingOffset,
            BackingNameBytes = backingOffset == 0 ? 0 : (int)BigEndian.U32(fields, 16),
            BackingFormat = extensions.BackingFormat,
            Extensions = extensions.All,
            DataFile = extensions.DataFile,
        };
        CheckTables(file, header);
        return header;
    }

    private static byte[] ReadHeaderCluster(BlockDevice file, int clusterSize)
    {
        var area = new byte[clusterSize];
        file.ReadPadded(0, area);
        return area;
    }

    private static long CheckSize(BlockDevice file, ulong size)
    {
        if (size > long.MaxValue)
            throw TooLarge(file, $"virtual size {size} is too large");
        return (long)size;
    }

    private static int CheckEncryption(BlockDevice file, uint method)
    {
        if (method > 2)
            throw Unsupported(file, $"unsupported encryption method {method}");
        return (int)method;
    }

    private static int CheckL1Size(BlockDevice file, uint entries)
    {
        if (entries > L1BytesMax / 8)
            throw TooLarge(file, $"L1 table of {entries} entries is too large");
        return (int)entries;
    }

    /// <summary>What is wrong with a table that not everybody needs.</summary>
    private static BlockException? FaultOf(Action check)
    {
        try
        {
            check();
            return null;
        }
        catch (BlockException fault)
        {
            return fault;
        }
    }

    private static void CheckRefcountTable(BlockDevice file, byte[] fields, int clusterSize)
    {
        uint clusters = BigEndian.U32(fields, 56);
        long offset = CheckOffset(file, "refcount table", BigEndian.U64(fields, 48), clusterSize);
        if (clusters == 0)
            throw Invalid(file, "the image has no refcount table");
        if (clusters > RefcountTableBytesMax / clusterSize)
            throw TooLarge(file, $"refcount table of {clusters} clusters is too large");
        if (offset == 0 || offset > file.Length - ((long)clusters * clusterSize))
            throw Invalid(file, $"the refcount table at {offset} lies beyond the end of the file");
    }

    private static void CheckSnapshots(BlockDevice file, byte[] fields, int clusterSize)
    {
        uint count = BigEndian.U32(fields, 60);
        if (count > SnapshotsMax)
            throw TooLarge(file, $"{count} snapshots are too many");
        if (count == 0)
            return;
        long offset = CheckOffset(file, "snapshot table", BigEndian.U64(fields, 64), clusterSize);
        if (offset == 0 || offset >= file.Length)
            throw Invalid(file, $"the snapshot table at {offset} lies beyond the end of the file");
    }

    private static long CheckOffset(BlockDevice file, string table, ulong offset, int clusterSize)
    {
        if (offset > long.MaxValue - (64L << 20) || (offset & (uint)(clusterSize - 1)) != 0)
            throw Invalid(file, $"invalid {table} offset {offset}");
        return (long)offset;
    }

    /// <summary>A table cut off by the end of the file would read as an empty disk: it is refused.</summary>
    private static void CheckTables(BlockDevice file, Qcow2Header header)
    {
        if (header.L1Size > 0 && (header.L1Offset == 0 || header.L1Offset > file.Length - (header.L1Size * 8L)))
            throw Invalid(file, $"the L1 table at {header.L1Offset} lies beyond the end of the file");
        long needed = new Qcow2Geometry(header).L1EntriesFor(header.Size);
        if (needed > header.L1Size)
            throw Invalid(file, $"L1 table of {header.L1Size} entries is too small for {header.Size} bytes");
    }

    private static CompressionType ReadCompression(BlockDevice file, byte[] fields, uint version, uint headerLength)
    {
        byte type = version == 3 && headerLength > Version3LengthMin ? fields[104] : (byte)0;
        bool bit = version == 3 && (BigEndian.U64(fields, 72) & FeatureBits.CompressionType) != 0;
        if (type > (byte)CompressionType.Zstd)
            throw Unsupported(file, $"unknown compression type {type}");
        if (bit != (type != 0))
            throw Invalid(file, $"compression type {type} contradicts the compression feature bit");
        return (CompressionType)type;
    }

    private static void RefuseUnknownFeatures(BlockDevice file, ulong incompatible, HeaderExtensions extensions)
    {
        ulong unknown = incompatible & ~FeatureBits.KnownIncompatible;
        if (unknown == 0)
            return;
        var names = new List<string>();
        for (int bit = 0; bit < 64; bit++)
        {
            if ((unknown & (1UL << bit)) != 0)
                names.Add(extensions.FeatureNames.GetValueOrDefault(bit)
                    ?? $"bit {bit.ToString(CultureInfo.InvariantCulture)}");
        }

        throw Unsupported(file, $"unsupported qcow2 feature(s): {string.Join(", ", names)}");
    }

    private static string? ReadBackingName(BlockDevice file, ReadOnlySpan<byte> area, long offset, uint length)
    {
        if (offset == 0)
            return null;
        if (length > BackingNameBytesMax || offset + length > area.Length)
            throw Invalid(file, $"backing file name of {length} bytes is too long");
        if (length == 0)
            return null;
        return TextOf(area.Slice((int)offset, (int)length));
    }

    /// <summary>A name or a format. Some writers fill its field with zeroes, which are no part of it.</summary>
    private static string TextOf(ReadOnlySpan<byte> bytes) => ByteText.Decode(bytes.TrimEnd((byte)0));

    private sealed class HeaderExtensions
    {
        public string? BackingFormat { get; set; }

        public string? DataFile { get; set; }

        public Dictionary<int, string> FeatureNames { get; } = [];

        public List<HeaderExtension> All { get; } = [];
    }

    private static HeaderExtensions ReadExtensions(BlockDevice file, ReadOnlySpan<byte> area, int start, int end)
    {
        var found = new HeaderExtensions();
        int offset = start;
        while (offset + 8 <= end)
        {
            uint type = BigEndian.U32(area, offset);
            uint length = BigEndian.U32(area, offset + 4);
            offset += 8;
            if (type == HeaderExtension.End)
                break;
            if (length > end - offset)
                throw Invalid(file, $"header extension 0x{type:x8} of {length} bytes is too large");
            ReadOnlySpan<byte> content = area.Slice(offset, (int)length);
            found.All.Add(new HeaderExtension(type, content.ToArray()));
            ReadExtension(file, found, type, content);
            offset = (int)Math.Min(end, offset + (((long)length + 7) & ~7L));
        }

        return found;
    }

    private static void ReadExtension(BlockDevice file, HeaderExtensions found, uint type, ReadOnlySpan<byte> content)
    {
        switch (type)
        {
            case HeaderExtension.BackingFormat:
                if (content.Length > 15)
                    throw Invalid(file, $"backing format name of {content.Length} bytes is too long");
                found.BackingFormat = TextOf(content);
                break;
            case HeaderExtension.DataFile:
                if (content.Length > BackingNameBytesMax)
                    throw Invalid(file, $"data file name of {content.Length} bytes is too long");
                found.DataFile = TextOf(content);
                break;
            case HeaderExtension.FeatureNames:
                for (int at = 0; at + 48 <= content.Length; at += 48)
                {
                    if (content[at] == 0)
                        found.FeatureNames[content[at + 1]] =
                            Printable.Text(ByteText.Decode(content.Slice(at + 2, 46).TrimEnd((byte)0)));
                }

                break;
            case HeaderExtension.Bitmaps:
                if (content.Length != 24)
                    throw Invalid(file, $"bitmaps extension of {content.Length} bytes, not 24");
                break;
            case HeaderExtension.Crypto:
                if (content.Length != 16)
                    throw Invalid(file, $"encryption extension of {content.Length} bytes, not 16");
                break;
        }
    }

    private static BlockException Invalid(BlockDevice file, string reason) =>
        BlockException.About(file.Name, BlockErrorKind.InvalidFormat, reason);

    private static BlockException TooLarge(BlockDevice file, string reason) =>
        BlockException.About(file.Name, BlockErrorKind.TooLarge, reason);

    private static BlockException Unsupported(BlockDevice file, string reason) =>
        BlockException.About(file.Name, BlockErrorKind.UnsupportedFeature, reason);
}
