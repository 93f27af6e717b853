// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace Qcow2Fuse.Testing.Oracle;

/// <summary>The oracle cannot read an image: what it holds contradicts the specification.</summary>
public sealed class PlainReaderException(string message) : Exception(message);

/// <summary>A snapshot as the snapshot table describes it (qcow2 specification, "Snapshots").</summary>
/// <param name="Id">Its unique id.</param>
/// <param name="Name">Its name.</param>
/// <param name="L1Offset">Where its L1 table lies.</param>
/// <param name="L1Entries">How many entries its L1 table has.</param>
/// <param name="DiskSize">The size of the disk when it was taken, −1 where the table does not say.</param>
public sealed record PlainSnapshot(string Id, string Name, long L1Offset, int L1Entries, long DiskSize);

/// <summary>
/// The header of a qcow2 image (qcow2 specification, "Header" and "Header extensions"), parsed and checked.
/// </summary>
public sealed class PlainHeader
{
    private const uint BackingFormatMagic = 0xE2792ACA;
    private const uint EncryptionMagic = 0x0537BE77;
    private const uint BitmapsMagic = 0x23852875;
    private const uint DataFileNameMagic = 0x44415441;

    /// <summary>Parses the header of <paramref name="file"/>.</summary>
    /// <exception cref="PlainReaderException">A field is invalid or asks for an unknown feature.</exception>
    public PlainHeader(ByteImage file)
    {
        byte[] fields = new byte[112];
        file.Read(0, fields);
        ulong Field64(int offset) => BinaryPrimitives.ReadUInt64BigEndian(fields.AsSpan(offset));
        uint Field32(int offset) => BinaryPrimitives.ReadUInt32BigEndian(fields.AsSpan(offset));

        Require(file.Length >= 72 && Field32(0) == 0x514649FB, "no qcow2 magic");
        Version = (int)Field32(4);
        Require(Version is 2 or 3, "version {0}", Version);
        ClusterBits = (int)Field32(20);
        Require(ClusterBits is >= 9 and <= 21, "cluster_bits {0}", ClusterBits);
        Size = checked((long)Field64(24));
        CryptMethod = (int)Field32(32);
        L1Entries = checked((int)Field32(36));
        L1Offset = Offset(Field64(40), "L1 table");
        RefcountTableOffset = Offset(Field64(48), "refcount table");
        RefcountTableClusters = checked((int)Field32(56));
        SnapshotCount = checked((int)Field32(60));
        SnapshotTableOffset = Offset(Field64(64), "snapshot table");
        int length = 72;
        if (Version == 3)
        {
            Incompatible = Field64(72);
            Autoclear = Field64(88);
            RefcountOrder = (int)Field32(96);
            length = (int)Field32(100);
            Require(length >= 104 && length <= ClusterSize, "header_length {0}", length);
            CompressionType = length > 104 ? fields[104] : (byte)0;
        }

        Require((Incompatible & ~0x1FUL) == 0, "incompatible features 0x{0:x}", Incompatible);
        Require(!ExtendedL2 || ClusterBits >= 14, "extended L2 entries with cluster_bits {0}", ClusterBits);
        Require(RefcountOrder <= 6, "refcount_order {0}", RefcountOrder);
        Require(CompressionType <= 1, "compression type {0}", CompressionType);
        Require(CompressionType != 0 == ((Incompatible & 8) != 0), "compression type {0} and bit 3", CompressionType);
        long coveredByL2 = (long)ClusterSize * (ClusterSize / L2EntrySize);
        Require((Size + coveredByL2 - 1) / coveredByL2 <= L1Entries, "L1 table of {0} entries is too small", L1Entries);
        Require(RefcountTableClusters >= 1, "no refcount table");
        ReadExtensions(file, length, checked((long)Field64(8)), checked((int)Field32(16)));
    }

    /// <summary>2 or 3.</summary>
    public int Version { get; }

    /// <summary>log2 of the cluster size, 9 to 21.</summary>
    public int ClusterBits { get; }

    /// <summary>Bytes in a cluster.</summary>
    public int ClusterSize => 1 << ClusterBits;

    /// <summary>The guest's size in bytes.</summary>
    public long Size { get; }

    /// <summary>0 none, 1 AES, 2 LUKS.</summary>
    public int CryptMethod { get; }

    /// <summary>Entries of the active L1 table.</summary>
    public int L1Entries { get; }

    /// <summary>Where the active L1 table lies.</summary>
    public long L1Offset { get; }

    /// <summary>Where the refcount table lies.</summary>
    public long RefcountTableOffset { get; }

    /// <summary>How many clusters the refcount table takes.</summary>
    public int RefcountTableClusters { get; }

    /// <summary>How many snapshots there are.</summary>
    public int SnapshotCount { get; }

    /// <summary>Where the snapshot table lies.</summary>
    public long SnapshotTableOffset { get; }

    /// <summary>The incompatible feature bits.</summary>
    public ulong Incompatible { get; }

    /// <summary>The autoclear feature bits.</summary>
    public ulong Autoclear { get; }

    /// <summary>log2 of the refcount width in bits, 0 to 6.</summary>
    public int RefcountOrder { get; } = 4;

    /// <summary>0 deflate, 1 zstd.</summary>
    public byte CompressionType { get; }

    /// <summary>Whether refcounts may be stale: incompatible bit 0.</summary>
    public bool Dirty => (Incompatible & 1) != 0;

    /// <summary>Whether the image is marked corrupt: incompatible bit 1.</summary>
    public bool Corrupt => (Incompatible & 2) != 0;

    /// <summary>Whether data lies in another file: incompatible bit 2.</summary>
    public bool ExternalData => (Incompatible & 4) != 0;

    /// <summary>Whether L2 entries are 16 bytes with 32 subclusters each: incompatible bit 4.</summary>
    public bool ExtendedL2 => (Incompatible & 16) != 0;

    /// <summary>Bytes of an L2 entry.</summary>
    public int L2EntrySize => ExtendedL2 ? 16 : 8;

    /// <summary>The backing file's name, or null.</summary>
    public string? BackingFile { get; private set; }

    /// <summary>The backing file's format, or null.</summary>
    public string? BackingFormat { get; private set; }

    /// <summary>The data file's name, or null.</summary>
    public string? DataFileName { get; private set; }

    /// <summary>Where the LUKS header lies and how long it is; (0, 0) for none.</summary>
    public (long Offset, long Length) Encryption { get; private set; }

    /// <summary>Where the bitmap directory lies and how long it is; (0, 0) for none.</summary>
    public (long Offset, long Length) BitmapDirectory { get; private set; }

    /// <summary>How many bitmaps the bitmaps extension counts, 0 where there is none.</summary>
    public uint BitmapCount { get; private set; }

    /// <summary>Throws with a formatted message unless a condition holds.</summary>
    internal static void Require(bool condition, string format, params ReadOnlySpan<object?> values)
    {
        if (!condition)
            throw new PlainReaderException(string.Format(CultureInfo.InvariantCulture, format, values));
    }

    private long Offset(ulong value, string what)
    {
        Require(value <= long.MaxValue && value % (ulong)ClusterSize == 0, what + " at 0x{0:x}", value);
        return (long)value;
    }

    private void ReadExtensions(ByteImage file, int start, long backingOffset, int backingLength)
    {
        long end = ClusterSize;
        if (backingOffset != 0)
        {
            Require(backingOffset <= ClusterSize && backingLength is >= 0 and <= 1023
                && backingOffset + backingLength <= ClusterSize, "backing file name at 0x{0:x}", backingOffset);
            BackingFile = Text(file, backingOffset, backingLength);
            end = backingOffset;
        }

        byte[] head = new byte[8];
        for (long at = start; at + 8 <= end;)
        {
            file.Read(at, head);
            uint magic = BinaryPrimitives.ReadUInt32BigEndian(head);
            uint length = BinaryPrimitives.ReadUInt32BigEndian(head.AsSpan(4));
            at += 8;
            if (magic == 0)
                break;
            Require(length <= end - at, "header extension 0x{0:x} of {1} bytes", magic, length);
            byte[] body = new byte[Math.Max(length, 24)];
            file.Read(at, body.AsSpan(0, (int)length));
            long First() => checked((long)BinaryPrimitives.ReadUInt64BigEndian(body));
            switch (magic)
            {
                case BackingFormatMagic:
                    BackingFormat = Text(file, at, (int)length);
                    break;
                case DataFileNameMagic:
                    DataFileName = Text(file, at, (int)length);
                    break;
                case EncryptionMagic:
                    Encryption = (First(), checked((long)BinaryPrimitives.ReadUInt64BigEndian(body.AsSpan(8))));
                    break;
                case BitmapsMagic:
                    BitmapCount = BinaryPrimitives.ReadUInt32BigEndian(body);
                    // Not checked here: without its autoclear bit the extension means nothing.
                    BitmapDirectory = ((long)BinaryPrimitives.ReadUInt64BigEndian(body.AsSpan(16)),
                        (long)BinaryPrimitives.ReadUInt64BigEndian(body.AsSpan(8)));
                    break;
                default:
                    break;
            }

            at += (length + 7) / 8 * 8;
        }
    }

    private static string Text(ByteImage file, long offset, int length)
    {
        byte[] text = new byte[length];
        file.Read(offset, text);
        return Encoding.UTF8.GetString(text);
    }
}
