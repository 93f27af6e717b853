// SPDX-License-Identifier: MIT
using System.Numerics;
using System.Text.Unicode;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Codecs;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Qcow2.Encryption;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Creation;

/// <summary>
/// Writes new, empty images: header, refcount table, L1 table, and the refcount blocks that count these.
/// </summary>
/// <remarks>
/// The refcount table is made large enough for the disk when it is full, as long as the limit of 8 MiB allows.
/// The header is written last, over durable tables: a file that has one is a whole image.
/// </remarks>
public static class Qcow2Creator
{
    private const long RefcountTableBytesMax = 8L << 20;
    private const long L1BytesMax = 32L << 20;
    private const int BackingNameBytesMax = 1023;

    /// <summary>Writes an image into <paramref name="file"/>, which is empty and grows on write.</summary>
    /// <exception cref="BlockException">An option is invalid, or writing failed.</exception>
    public static void Create(BlockDevice file, Qcow2CreateOptions options)
    {
        Check(file, options);
        Qcow2Header header = Plan(file, options);
        var geometry = new Qcow2Geometry(header);
        long l1Clusters = geometry.RoundUpToCluster(header.L1Size * 8L) >> geometry.ClusterBits;
        long luksBytes = LuksBytes(options);
        long fixedClusters = 1 + header.RefcountTableClusters + l1Clusters
            + (geometry.RoundUpToCluster(luksBytes) >> geometry.ClusterBits);

        // The blocks count themselves, so their number is found by trying.
        long blocks = 1;
        while (blocks << geometry.RefcountBlockBits < fixedClusters + blocks)
            blocks++;
        long tableStart = header.RefcountTableOffset;
        long l1Start = tableStart + ((long)header.RefcountTableClusters << geometry.ClusterBits);
        long blocksStart = l1Start + (l1Clusters << geometry.ClusterBits);
        header = header with { L1Offset = header.L1Size == 0 ? 0 : l1Start };

        long luksStart = blocksStart + (blocks << geometry.ClusterBits);
        if (luksBytes > 0)
            header = header with { Extensions = [LuksPointer(luksStart, luksBytes)] };
        long tablesBytes = blocksStart + (blocks << geometry.ClusterBits) - tableStart;
        file.WriteZeroes(tableStart, tablesBytes + geometry.RoundUpToCluster(luksBytes), mayUnmap: false);
        if (luksBytes > 0)
            WriteLuks(file, luksStart, options.Encryption!);
        WriteRefcounts(file, geometry, tableStart, blocksStart, (int)blocks, fixedClusters + blocks);
        file.Flush();
        file.Write(0, Encode(header, geometry));
        file.Flush();
    }

    private static void Check(BlockDevice file, Qcow2CreateOptions options)
    {
        if (options.Version is not (2 or 3))
            throw Invalid(file, $"version {options.Version} is neither 2 nor 3");
        if (!BitOperations.IsPow2(options.ClusterSize) || options.ClusterSize is < 512 or > 2 << 20)
            throw Invalid(file, $"cluster size {options.ClusterSize} is not a power of two from 512 to 2097152");
        if (!BitOperations.IsPow2(options.RefcountBits) || options.RefcountBits is < 1 or > 64)
            throw Invalid(file, $"refcount width {options.RefcountBits} is not a power of two from 1 to 64");
        if (options.Version == 2 && options.RefcountBits != 16)
            throw Invalid(file, "version 2 has refcounts of 16 bits only");
        if (options.Version == 2 && (options.ExtendedL2 || options.Compression != CompressionType.Deflate))
            throw Invalid(file, "extended L2 entries and zstd need version 3");
        if (options.ExtendedL2 && options.ClusterSize < 16384)
            throw Invalid(file, "extended L2 entries need clusters of at least 16384 bytes");
        if (options.Encryption is { } encryption)
            CheckEncryption(file, encryption);
        if (options.Size < 0 || options.Size > long.MaxValue - 511)
            throw Invalid(file, $"invalid size {options.Size}");
    }

    private static void CheckEncryption(BlockDevice file, EncryptionOptions options)
    {
        if (options.Secrets.Count == 0)
            throw Invalid(file, "an encrypted image needs a passphrase");
        if (!Utf8.IsValid(options.Secrets[0]) || options.Secrets[0].Contains((byte)0))
            throw Invalid(file, "the passphrase is not text in UTF-8, which is what QEMU asks for");
        if (options.KeyBytes is < 1 or > 64)
            throw Invalid(file, $"a key of {options.KeyBytes} bytes");
    }

    private static Qcow2Header Plan(BlockDevice file, Qcow2CreateOptions options)
    {
        ulong incompatible = (options.ExtendedL2 ? FeatureBits.ExtendedL2 : 0)
            | (options.Compression != CompressionType.Deflate ? FeatureBits.CompressionType : 0);
        var header = new Qcow2Header
        {
            Version = options.Version,
            ClusterBits = BitOperations.Log2((uint)options.ClusterSize),
            Size = (options.Size + 511) & ~511L,
            EncryptionMethod = options.Encryption switch
            {
                null => 0,
                { Format: EncryptionFormat.Aes } => 1,
                _ => 2,
            },
            L1Size = 0,
            L1Offset = 0,
            RefcountTableOffset = options.ClusterSize,
            RefcountTableClusters = 1,
            SnapshotCount = 0,
            SnapshotsOffset = 0,
            Incompatible = incompatible,
            Compatible = 0,
            Autoclear = 0,
            HeaderLength = options.Version == 2
                ? Qcow2HeaderWriter.Version2Bytes : Qcow2HeaderWriter.Version3Bytes,
            RefcountOrder = BitOperations.Log2((uint)options.RefcountBits),
            Compression = options.Compression,
            BackingFile = options.BackingFile,
            BackingFormat = options.BackingFormat,
        };
        var geometry = new Qcow2Geometry(header);
        long l1Entries = geometry.L1EntriesFor(header.Size);
        if (l1Entries > L1BytesMax / 8)
            throw new BlockException(BlockErrorKind.TooLarge,
                $"{file.Name}: {options.Size} bytes are too many for clusters of {options.ClusterSize} bytes");
        return header with
        {
            L1Size = (int)l1Entries,
            RefcountTableClusters = RefcountTableClusters(
                geometry, header.Size, l1Entries, LuksBytes(options) >> geometry.ClusterBits),
        };
    }

    private static long LuksBytes(Qcow2CreateOptions options) =>
        options.Encryption is { Format: EncryptionFormat.Luks } luks ? LuksCreator.AreaBytes(luks) : 0;

    private static HeaderExtension LuksPointer(long offset, long length)
    {
        byte[] content = new byte[16];
        BigEndian.U64(content, 0, (ulong)offset);
        BigEndian.U64(content, 8, (ulong)length);
        return new HeaderExtension(HeaderExtension.Crypto, content);
    }

    private static void WriteLuks(BlockDevice file, long offset, EncryptionOptions options)
    {
        try
        {
            file.Write(offset, LuksCreator.Make(file, options));
        }
        catch (CodecUnavailableException e)
        {
            throw new BlockException(BlockErrorKind.UnsupportedFeature, $"{file.Name}: {e.Message}", e,
                new(FailureCode.PackageMissing) { Name = e.Package });
        }
    }

    /// <summary>Clusters of a refcount table for the disk when it is full, with a little to spare.</summary>
    private static int RefcountTableClusters(Qcow2Geometry geometry, long size, long l1Entries, long others)
    {
        long data =
            geometry.RoundUpToCluster(Math.Min(size, long.MaxValue - geometry.ClusterSize)) >> geometry.ClusterBits;
        long tables = l1Entries + (geometry.RoundUpToCluster(l1Entries * 8) >> geometry.ClusterBits);
        long counted = data + tables + others + 16;
        long blocks = (counted >> geometry.RefcountBlockBits) + 1;
        blocks += (blocks >> geometry.RefcountBlockBits) + (blocks >> 8) + 2;
        long clusters = geometry.RoundUpToCluster(blocks * 8) >> geometry.ClusterBits;
        return (int)Math.Min(clusters, RefcountTableBytesMax >> geometry.ClusterBits);
    }

    private static void WriteRefcounts(
        BlockDevice file, Qcow2Geometry geometry, long tableStart, long blocksStart, int blocks, long used)
    {
        var table = new byte[blocks * 8];
        for (int i = 0; i < blocks; i++)
            BigEndian.U64(table, i * 8, (ulong)(blocksStart + ((long)i << geometry.ClusterBits)));
        file.Write(tableStart, table);

        var block = new byte[geometry.ClusterSize];
        for (int i = 0; i < blocks; i++)
        {
            Array.Clear(block);
            long counted = Math.Min(used - ((long)i << geometry.RefcountBlockBits), 1L << geometry.RefcountBlockBits);
            for (int index = 0; index < counted; index++)
                RefcountField.Write(block, index, geometry.RefcountOrder, 1);
            file.Write(blocksStart + ((long)i << geometry.ClusterBits), block);
        }
    }

    private static byte[] Encode(Qcow2Header header, Qcow2Geometry geometry)
    {
        var bytes = new byte[geometry.ClusterSize];
        Qcow2HeaderWriter.Encode(header, bytes);
        int end = header.HeaderLength;
        WriteNames(bytes, end, header);
        return bytes;
    }

    private static void WriteNames(byte[] bytes, int end, Qcow2Header header)
    {
        end += FeatureNames.Write(bytes.AsSpan(end), header);
        if (header.BackingFormat is not null)
        {
            byte[] format = ByteText.Encode(header.BackingFormat);
            BigEndian.U32(bytes, end, HeaderExtension.BackingFormat);
            BigEndian.U32(bytes, end + 4, (uint)format.Length);
            format.CopyTo(bytes, end + 8);
            end += 8 + ((format.Length + 7) & ~7);
        }

        foreach (HeaderExtension extension in header.Extensions)
        {
            BigEndian.U32(bytes, end, extension.Type);
            BigEndian.U32(bytes, end + 4, (uint)extension.Content.Length);
            extension.Content.Span.CopyTo(bytes.AsSpan(end + 8));
            end += 8 + ((extension.Content.Length + 7) & ~7);
        }

        end += 8;
        if (header.BackingFile is null)
            return;
        byte[] name = ByteText.Encode(header.BackingFile);
        if (name.Length > BackingNameBytesMax || end + name.Length > bytes.Length)
            throw new BlockException(
                BlockErrorKind.InvalidFormat, $"backing file name of {name.Length} bytes is too long");
        name.CopyTo(bytes, end);
        BigEndian.U64(bytes, 8, (ulong)end);
        BigEndian.U32(bytes, 16, (uint)name.Length);
    }

    private static BlockException Invalid(BlockDevice file, string reason) =>
        new(BlockErrorKind.InvalidFormat, $"{file.Name}: {reason}");
}
