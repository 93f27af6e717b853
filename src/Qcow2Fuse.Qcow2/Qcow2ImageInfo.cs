// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Qcow2;

/// <summary>An internal snapshot as the snapshot table describes it.</summary>
/// <param name="Id">Unique number, as text.</param>
/// <param name="Name">What the user called it.</param>
/// <param name="VmStateSize">Bytes of saved machine state, 0 for a disk-only snapshot.</param>
/// <param name="DateSeconds">When it was taken, seconds since 1970.</param>
/// <param name="DateNanoseconds">The rest, 0 to 999,999,999.</param>
/// <param name="VmClockNanoseconds">How long the machine had run.</param>
/// <param name="DiskSize">Size of the disk then, in bytes.</param>
/// <param name="InstructionCount">Instructions executed, or null where none were counted.</param>
public sealed record SnapshotInfo(
    string Id, string Name, long VmStateSize, long DateSeconds, long DateNanoseconds, long VmClockNanoseconds,
    long DiskSize, long? InstructionCount);

/// <summary>
/// What header and snapshot table say of an image. Reading it opens no other file and changes nothing.
/// </summary>
public sealed record Qcow2ImageInfo
{
    private const int SnapshotFieldsBytes = 40;
    private const int SnapshotExtraBytesMax = 1024;
    private const long SnapshotTableBytesMax = 64L << 20;

    public required int Version { get; init; }

    public required long VirtualSize { get; init; }

    public required int ClusterSize { get; init; }

    public required bool ExtendedL2 { get; init; }

    public required CompressionType Compression { get; init; }

    public required int RefcountBits { get; init; }

    public required bool LazyRefcounts { get; init; }

    public required bool Dirty { get; init; }

    public required bool Corrupt { get; init; }

    /// <summary>0 none, 1 AES, 2 LUKS.</summary>
    public required int EncryptionMethod { get; init; }

    public string? BackingFile { get; init; }

    public string? BackingFormat { get; init; }

    public bool HasExternalData { get; init; }

    public string? DataFile { get; init; }

    public bool DataFileRaw { get; init; }

    public required IReadOnlyList<SnapshotInfo> Snapshots { get; init; }

    /// <summary>Persistent bitmaps that the image vouches for.</summary>
    public required IReadOnlyList<BitmapInfo> Bitmaps { get; init; }

    /// <summary>Reads it from the image file.</summary>
    /// <exception cref="BlockException">The header, the snapshot table or the bitmap directory is invalid.</exception>
    public static Qcow2ImageInfo Read(BlockDevice file)
    {
        Qcow2Header header = Qcow2HeaderReader.Read(file);
        return new Qcow2ImageInfo
        {
            Version = header.Version,
            VirtualSize = header.Size & ~511L,
            ClusterSize = 1 << header.ClusterBits,
            ExtendedL2 = header.HasExtendedL2,
            Compression = header.Compression,
            RefcountBits = header.RefcountBits,
            LazyRefcounts = (header.Compatible & FeatureBits.LazyRefcounts) != 0,
            Dirty = header.IsDirty,
            Corrupt = header.IsCorrupt,
            EncryptionMethod = header.EncryptionMethod,
            BackingFile = header.BackingFile,
            BackingFormat = header.BackingFormat,
            HasExternalData = header.HasExternalData,
            DataFile = header.DataFile,
            DataFileRaw = (header.Autoclear & FeatureBits.RawExternalData) != 0,
            Snapshots = ReadSnapshots(file, header),
            Bitmaps = BitmapSet.Describe(file, header),
        };
    }

    /// <summary>Specification section "Snapshots".</summary>
    private static List<SnapshotInfo> ReadSnapshots(BlockDevice file, Qcow2Header header)
    {
        var snapshots = new List<SnapshotInfo>();
        long offset = header.SnapshotsOffset;
        for (int i = 0; i < header.SnapshotCount; i++)
        {
            var fields = new byte[SnapshotFieldsBytes];
            ReadTable(file, header, offset, fields);
            int idBytes = BigEndian.U16(fields, 12);
            int nameBytes = BigEndian.U16(fields, 14);
            uint extraBytes = BigEndian.U32(fields, 36);
            if (extraBytes > SnapshotExtraBytesMax)
                throw new BlockException(BlockErrorKind.TooLarge,
                    $"{file.Name}: snapshot {i} has {extraBytes} bytes of extra data, "
                    + $"more than {SnapshotExtraBytesMax}");
            var rest = new byte[extraBytes + idBytes + nameBytes];
            ReadTable(file, header, offset + SnapshotFieldsBytes, rest);
            snapshots.Add(Parse(fields, rest, (int)extraBytes, idBytes, header.Size & ~511L));
            offset += (SnapshotFieldsBytes + rest.Length + 7) & ~7L;
        }

        return snapshots;
    }

    private static SnapshotInfo Parse(byte[] fields, byte[] rest, int extraBytes, int idBytes, long currentSize)
    {
        ReadOnlySpan<byte> extra = rest.AsSpan(0, extraBytes);
        ulong instructions = extraBytes >= 24 ? BigEndian.U64(extra, 16) : ulong.MaxValue;
        return new SnapshotInfo(
            Encoding.UTF8.GetString(rest, extraBytes, idBytes),
            Encoding.UTF8.GetString(rest.AsSpan(extraBytes + idBytes)),
            extraBytes >= 8 ? (long)BigEndian.U64(extra, 0) : BigEndian.U32(fields, 32),
            BigEndian.U32(fields, 16),
            BigEndian.U32(fields, 20),
            (long)BigEndian.U64(fields, 24),
            extraBytes >= 16 ? (long)BigEndian.U64(extra, 8) : currentSize,
            instructions == ulong.MaxValue ? null : (long)instructions);
    }

    private static void ReadTable(BlockDevice file, Qcow2Header header, long offset, byte[] bytes)
    {
        if (offset > file.Length - bytes.Length)
            throw new BlockException(
                BlockErrorKind.InvalidFormat, $"{file.Name}: the snapshot table goes beyond the end of the file");
        if (offset + bytes.Length - header.SnapshotsOffset > SnapshotTableBytesMax)
            throw new BlockException(BlockErrorKind.TooLarge, $"{file.Name}: the snapshot table is too large");
        file.Read(offset, bytes);
    }
}
