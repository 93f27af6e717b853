// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Text;

namespace Qcow2Fuse.Testing.Oracle;

/// <summary>Where the guest's bytes come from.</summary>
public enum PlaceKind
{
    /// <summary>The backing file, or zeroes where there is none or it is too short.</summary>
    Unallocated,

    /// <summary>Zeroes, whatever the backing file holds.</summary>
    Zero,

    /// <summary>Plain bytes in the file, or in the data file.</summary>
    Data,

    /// <summary>A compressed cluster.</summary>
    Compressed,
}

/// <summary>The place of a piece of the guest's disk that does not cross a subcluster.</summary>
/// <param name="Kind">What it is.</param>
/// <param name="HostOffset">Where its first byte lies; for a compressed cluster where its data begins.</param>
/// <param name="Length">Bytes up to the end of the subcluster or of the disk.</param>
/// <param name="Entry">The L2 entry, its first 8 bytes.</param>
public readonly record struct Place(PlaceKind Kind, long HostOffset, long Length, ulong Entry);

/// <summary>
/// A qcow2 reader written from the specification alone, one guest piece at a time and without caches, that shares no
/// code with the product: what it says about an image is the judgement tests compare with.
/// </summary>
public sealed class PlainReader
{
    /// <summary>Bits 9 to 55 of L1 and L2 entries: a cluster's offset.</summary>
    public const ulong OffsetMask = 0x00FFFFFFFFFFFE00;

    /// <summary>Bit 63: the refcount is exactly one.</summary>
    internal const ulong CopiedFlag = 1UL << 63;

    /// <summary>Bit 62: the cluster is compressed.</summary>
    internal const ulong CompressedFlag = 1UL << 62;

    private readonly ByteImage? _backing;
    private readonly ByteImage? _dataFile;
    private readonly PlainCipher? _cipher;
    private readonly long _l1Offset;
    private readonly int _l1Entries;

    /// <summary>Reads the header of <paramref name="file"/>.</summary>
    /// <param name="file">The image file.</param>
    /// <param name="backing">The guest view of the backing file; null reads as zeroes.</param>
    /// <param name="dataFile">The external data file, where the image has one.</param>
    /// <param name="cipher">Decrypts the guest's data, where it is encrypted; metadata is read without it.</param>
    /// <exception cref="PlainReaderException">The image cannot be opened.</exception>
    public PlainReader(
        ByteImage file, ByteImage? backing = null, ByteImage? dataFile = null, PlainCipher? cipher = null)
    {
        _cipher = cipher;
        File = file;
        Header = new PlainHeader(file);
        _backing = backing;
        _dataFile = dataFile;
        _l1Offset = Header.L1Offset;
        _l1Entries = Header.L1Entries;
        Size = Header.Size;
        PlainHeader.Require(!Header.ExternalData || dataFile is not null, "the data file is missing");
        PlainHeader.Require(
            _l1Offset + ((long)_l1Entries * 8) <= file.Length || _l1Entries == 0, "the L1 table lies past the end");
    }

    private PlainReader(PlainReader whole, PlainSnapshot snapshot)
    {
        File = whole.File;
        _cipher = whole._cipher;
        Header = whole.Header;
        _backing = whole._backing;
        _dataFile = whole._dataFile;
        _l1Offset = snapshot.L1Offset;
        _l1Entries = snapshot.L1Entries;
        Size = snapshot.DiskSize < 0 ? whole.Size : snapshot.DiskSize;
    }

    /// <summary>The image file.</summary>
    public ByteImage File { get; }

    /// <summary>The external data file, or null.</summary>
    public ByteImage? DataFile => _dataFile;

    /// <summary>Its header.</summary>
    public PlainHeader Header { get; }

    /// <summary>The guest's size in bytes.</summary>
    public long Size { get; }

    /// <summary>The snapshots in the order of the table.</summary>
    public IReadOnlyList<PlainSnapshot> Snapshots()
    {
        List<PlainSnapshot> found = [];
        long at = Header.SnapshotTableOffset;
        for (int i = 0; i < Header.SnapshotCount; i++)
        {
            PlainHeader.Require(at + 40 <= File.Length, "snapshot {0} lies past the end", i);
            byte[] head = new byte[40];
            File.Read(at, head);
            int idLength = BinaryPrimitives.ReadUInt16BigEndian(head.AsSpan(12));
            int nameLength = BinaryPrimitives.ReadUInt16BigEndian(head.AsSpan(14));
            int extraLength = (int)BinaryPrimitives.ReadUInt32BigEndian(head.AsSpan(36));
            PlainHeader.Require(extraLength is >= 0 and <= 1024, "snapshot {0} with {1} extra bytes", i, extraLength);
            byte[] rest = new byte[extraLength + idLength + nameLength];
            File.Read(at + 40, rest);
            found.Add(new PlainSnapshot(
                Encoding.UTF8.GetString(rest, extraLength, idLength),
                Encoding.UTF8.GetString(rest, extraLength + idLength, nameLength),
                checked((long)BinaryPrimitives.ReadUInt64BigEndian(head)),
                checked((int)BinaryPrimitives.ReadUInt32BigEndian(head.AsSpan(8))),
                extraLength >= 16 ? checked((long)BinaryPrimitives.ReadUInt64BigEndian(rest.AsSpan(8))) : -1));
            at += (40 + rest.Length + 7) / 8 * 8;
        }

        SnapshotTableEnd = at;
        return found;
    }

    /// <summary>The disk as it was when a snapshot was taken.</summary>
    public PlainReader At(PlainSnapshot snapshot) => new(this, snapshot);

    /// <summary>Checks all metadata.</summary>
    /// <param name="allowStaleFlags">
    /// COPIED may disagree with the refcount where that costs space or a copy only: it may be missing, and it may be
    /// set where a cluster with too high a refcount has one reference. A power cut while a snapshot is being made
    /// leaves that, as flags and refcounts lie in different sectors.
    /// </param>
    public PlainCheck Check(bool allowStaleFlags = false) => new(this, allowStaleFlags);

    /// <summary>Finds the place of the guest byte at <paramref name="guestOffset"/> and those after it.</summary>
    /// <exception cref="PlainReaderException">An entry on the way is invalid.</exception>
    public Place Locate(long guestOffset)
    {
        int clusterSize = Header.ClusterSize;
        int subclusterSize = Header.ExtendedL2 ? clusterSize / 32 : clusterSize;
        long length = Math.Min(subclusterSize - (guestOffset % subclusterSize), Size - guestOffset);
        long cluster = guestOffset / clusterSize;
        int entriesPerTable = clusterSize / Header.L2EntrySize;
        long l1Index = cluster / entriesPerTable;
        if (l1Index >= _l1Entries)
            return new Place(PlaceKind.Unallocated, 0, length, 0);

        long l2Table = (long)(Read64(_l1Offset + (l1Index * 8)) & OffsetMask);
        if (l2Table == 0)
            return new Place(PlaceKind.Unallocated, 0, length, 0);
        RequireCluster(l2Table, File, "L2 table");
        long entryOffset = l2Table + (cluster % entriesPerTable * Header.L2EntrySize);
        ulong entry = Read64(entryOffset);
        if ((entry & CompressedFlag) != 0)
            return new Place(PlaceKind.Compressed, CompressedOffset(entry), length, entry);

        int subcluster = (int)(guestOffset % clusterSize / subclusterSize);
        PlaceKind kind = KindOf(entry, Header.ExtendedL2 ? Read64(entryOffset + 8) : 0, subcluster);
        long host = (long)(entry & OffsetMask);
        if (kind == PlaceKind.Data)
            RequireCluster(host, _dataFile ?? File, "data cluster");
        return new Place(kind, host + (guestOffset % clusterSize), length, entry);
    }

    /// <summary>Reads guest bytes; past the end of the disk they are zeroes.</summary>
    /// <exception cref="PlainReaderException">The range cannot be read.</exception>
    public void Read(long guestOffset, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            if (guestOffset >= Size)
            {
                destination.Clear();
                return;
            }

            Place place = Locate(guestOffset);
            Span<byte> piece = destination[..(int)Math.Min(place.Length, destination.Length)];
            switch (place.Kind)
            {
                case PlaceKind.Zero:
                    piece.Clear();
                    break;
                case PlaceKind.Unallocated when _backing is null:
                    piece.Clear();
                    break;
                case PlaceKind.Unallocated:
                    _backing!.Read(guestOffset, piece);
                    break;
                case PlaceKind.Data when Header.CryptMethod != 0:
                    piece = piece[..(int)Math.Min(piece.Length, 512 - (guestOffset % 512))];
                    ReadEncrypted(guestOffset, place.HostOffset, piece);
                    break;
                case PlaceKind.Data:
                    (_dataFile ?? File).Read(place.HostOffset, piece);
                    break;
                case PlaceKind.Compressed:
                    Decompress(place.Entry).AsSpan((int)(guestOffset % Header.ClusterSize), piece.Length).CopyTo(piece);
                    break;
                default:
                    throw new InvalidOperationException(place.Kind.ToString());
            }

            guestOffset += piece.Length;
            destination = destination[piece.Length..];
        }
    }

    /// <summary>All bytes of the guest's disk.</summary>
    public byte[] ReadAll()
    {
        byte[] all = new byte[checked((int)Size)];
        Read(0, all);
        return all;
    }

    /// <summary>The guest's disk as a file, to be the backing of another reader.</summary>
    public ByteImage AsImage() => new GuestImage(this);

    /// <summary>The first byte after the snapshot table, known after <see cref="Snapshots"/>.</summary>
    internal long SnapshotTableEnd { get; private set; }

    /// <summary>Reads a big-endian number of 8 bytes.</summary>
    public ulong Read64(long offset)
    {
        Span<byte> bytes = stackalloc byte[8];
        File.Read(offset, bytes);
        return BinaryPrimitives.ReadUInt64BigEndian(bytes);
    }

    /// <summary>Where a compressed cluster's data begins (specification, "Compressed Clusters Descriptor").</summary>
    internal long CompressedOffset(ulong entry) => (long)(entry & ((1UL << CompressedShift) - 1));

    /// <summary>How many bytes a compressed cluster's data takes at most.</summary>
    internal int CompressedLength(ulong entry)
    {
        ulong sectors = (entry & (CompressedFlag - 1)) >> CompressedShift;
        return (int)(((sectors + 1) * 512) - ((ulong)CompressedOffset(entry) % 512));
    }

    private int CompressedShift => 62 - (Header.ClusterBits - 8);

    private PlaceKind KindOf(ulong entry, ulong bitmap, int subcluster)
    {
        // With a data file the guest's first cluster lies at offset 0, and COPIED says that it is there.
        bool hasCluster = (entry & OffsetMask) != 0 || (Header.ExternalData && (entry & CopiedFlag) != 0);
        if (!Header.ExtendedL2)
        {
            if ((entry & 1) != 0)
            {
                PlainHeader.Require(Header.Version == 3, "zero flag in a version 2 image");
                return PlaceKind.Zero;
            }

            return hasCluster ? PlaceKind.Data : PlaceKind.Unallocated;
        }

        uint allocated = (uint)bitmap, zero = (uint)(bitmap >> 32);
        PlainHeader.Require((allocated & zero) == 0, "subclusters both allocated and zero: 0x{0:x}", bitmap);
        PlainHeader.Require(allocated == 0 || hasCluster, "subclusters allocated nowhere: 0x{0:x}", bitmap);
        uint bit = 1u << subcluster;
        return (zero & bit) != 0 ? PlaceKind.Zero
            : (allocated & bit) != 0 ? PlaceKind.Data : PlaceKind.Unallocated;
    }

    private void RequireCluster(long offset, ByteImage holder, string what)
    {
        PlainHeader.Require(offset % Header.ClusterSize == 0, what + " at 0x{0:x} is not aligned", offset);
        PlainHeader.Require(
            offset < holder.Length || Header.ExternalData, what + " at 0x{0:x} lies past the end", offset);
    }

    /// <summary>Reads a part of one sector.</summary>
    private void ReadEncrypted(long guestOffset, long hostOffset, Span<byte> piece)
    {
        PlainHeader.Require(_cipher is not null, "encryption method {0} without a key", Header.CryptMethod);
        byte[] sector = new byte[512];
        int skip = (int)(guestOffset % 512);
        (_dataFile ?? File).Read(hostOffset - skip, sector);
        _cipher!.Decrypt(guestOffset - skip, hostOffset - skip, sector);
        sector.AsSpan(skip, piece.Length).CopyTo(piece);
    }

    private byte[] Decompress(ulong entry)
    {
        byte[] packed = new byte[CompressedLength(entry)];
        File.Read(CompressedOffset(entry), packed);
        return Header.CompressionType == 0
            ? PlainDecompressor.Inflate(packed, Header.ClusterSize)
            : PlainDecompressor.Zstd(packed, Header.ClusterSize);
    }

    private sealed class GuestImage(PlainReader reader) : ByteImage
    {
        public override long Length => reader.Size;

        public override void Read(long offset, Span<byte> destination) => reader.Read(offset, destination);
    }
}
