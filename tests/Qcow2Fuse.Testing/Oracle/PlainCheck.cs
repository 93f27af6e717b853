// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Globalization;

namespace Qcow2Fuse.Testing.Oracle;

/// <summary>
/// What is wrong with the metadata of an image: follows every reference from the header, counts them per host cluster
/// and compares with the stored refcounts (qcow2 specification, "Host cluster management").
/// </summary>
public sealed class PlainCheck
{
    private const ulong L1Reserved = 0x7F000000000001FF;
    private const ulong L2Reserved = 0x3F000000000001FE;
    private const ulong ZeroFlag = 1;
    private const int ErrorsMax = 20;

    private readonly List<string> _errors = [];
    private readonly bool _allowStaleFlags;
    private readonly PlainReader _reader;
    private readonly PlainHeader _header;
    private readonly ByteImage _file;
    private readonly int _clusterSize;
    private readonly int[] _references;
    private readonly Use[] _uses;
    private readonly ulong[] _stored;

    internal PlainCheck(PlainReader reader, bool allowStaleFlags = false)
    {
        _allowStaleFlags = allowStaleFlags;
        _reader = reader;
        _header = reader.Header;
        _file = reader.File;
        _clusterSize = _header.ClusterSize;
        int clusters = checked((int)((_file.Length + _clusterSize - 1) / _clusterSize));
        _references = new int[clusters];
        _uses = new Use[clusters];
        _stored = new ulong[clusters];

        Refer(0, 1, Use.Header);
        WalkRefcountTable();
        WalkActive();
        WalkSnapshots();
        WalkExtensions();
        Compare();
        WalkFlags();
    }

    private enum Use : byte
    {
        None,
        Header,
        RefcountTable,
        RefcountBlock,
        L1Table,
        L2Table,
        Data,
        Compressed,
        SnapshotTable,
        Encryption,
        Bitmap,
    }

    /// <summary>What would make a reader see wrong bytes or a writer destroy some; at most 20.</summary>
    public IReadOnlyList<string> Errors => _errors;

    /// <summary>Clusters whose refcount is higher than the number of references: space lost, nothing else.</summary>
    public long Leaks { get; private set; }

    /// <summary>Whether anything refers to a host cluster of the file.</summary>
    public bool IsReferenced(long cluster) => _references[cluster] > 0;

    private void Error(string format, params ReadOnlySpan<object?> values)
    {
        if (_errors.Count < ErrorsMax)
            _errors.Add(string.Format(CultureInfo.InvariantCulture, format, values));
    }

    /// <summary>Counts one reference to each cluster of a range that begins in the file.</summary>
    private bool Refer(long offset, long length, Use use, bool shared = false)
    {
        if (offset < 0 || offset >= _file.Length)
        {
            Error("{0} at 0x{1:x} lies past the end of the file (0x{2:x})", use, offset, _file.Length);
            return false;
        }

        long last = Math.Min((offset + length - 1) / _clusterSize, _references.Length - 1);
        for (long cluster = offset / _clusterSize; cluster <= last; cluster++)
        {
            Use before = _uses[cluster];
            if (before != Use.None && (before != use || !shared))
                Error("cluster 0x{0:x} is used as {1} and as {2}", cluster * _clusterSize, before, use);
            _uses[cluster] = use;
            _references[cluster]++;
        }

        return true;
    }

    private bool IsAligned(long offset, Use use)
    {
        if (offset % _clusterSize == 0)
            return true;
        Error("{0} at 0x{1:x} is not aligned", use, offset);
        return false;
    }

    private void WalkRefcountTable()
    {
        long start = _header.RefcountTableOffset, length = (long)_header.RefcountTableClusters * _clusterSize;
        if (start + length > _file.Length)
            Error("the refcount table ends past the end of the file");
        if (!Refer(start, length, Use.RefcountTable))
            return;
        int entriesPerBlock = _clusterSize * 8 >> _header.RefcountOrder;
        for (long at = start; (at = _file.SkipZeroes(at, start + length)) < start + length; at += 8)
        {
            ulong entry = _reader.Read64(at);
            long block = (long)(entry & ~511UL);
            if ((entry & 511) != 0)
                Error("refcount table entry 0x{0:x} has reserved bits set", entry);
            if (block != 0 && IsAligned(block, Use.RefcountBlock) && Refer(block, 1, Use.RefcountBlock))
                ReadBlock(block, (at - start) / 8 * entriesPerBlock);
        }
    }

    private void ReadBlock(long block, long firstCluster)
    {
        int bits = 1 << _header.RefcountOrder;
        Span<byte> sector = stackalloc byte[512];
        long end = block + _clusterSize;
        for (long at = block; (at = _file.SkipZeroes(at, end)) < end; at += 512)
        {
            _file.Read(at, sector);
            long cluster = firstCluster + ((at - block) * 8 / bits);
            for (int i = 0; i < 512 * 8 / bits; i++)
            {
                ulong value = RefcountIn(sector, i, bits);
                if (value == 0)
                    continue;
                if (cluster + i < _stored.Length)
                    _stored[cluster + i] = value;
                else
                    Leaks++;
            }
        }
    }

    private static ulong RefcountIn(ReadOnlySpan<byte> sector, int index, int bits) => bits switch
    {
        64 => BinaryPrimitives.ReadUInt64BigEndian(sector[(index * 8)..]),
        32 => BinaryPrimitives.ReadUInt32BigEndian(sector[(index * 4)..]),
        16 => BinaryPrimitives.ReadUInt16BigEndian(sector[(index * 2)..]),
        8 => sector[index],
        _ => (ulong)(sector[index * bits / 8] >> (index * bits % 8)) & ((1UL << bits) - 1),
    };

    private void WalkActive() => WalkL1(_header.L1Offset, _header.L1Entries, active: true);

    private void WalkL1(long start, int entries, bool active)
    {
        long end = start + ((long)entries * 8);
        if (entries == 0)
            return;
        if (!IsAligned(start, Use.L1Table))
            return;
        if (end > _file.Length)
            Error("an L1 table ends past the end of the file");
        if (!Refer(start, end - start, Use.L1Table))
            return;
        for (long at = start; (at = _file.SkipZeroes(at, end)) < end; at += 8)
        {
            ulong entry = _reader.Read64(at);
            long table = (long)(entry & PlainReader.OffsetMask);
            if ((entry & L1Reserved) != 0)
                Error("L1 entry 0x{0:x} has reserved bits set", entry);
            if (table == 0)
            {
                if (entry != 0)
                    Error("L1 entry 0x{0:x} names no table", entry);
            }
            else if (IsAligned(table, Use.L2Table) && Refer(table, 1, Use.L2Table, shared: !active))
            {
                WalkL2(table, (at - start) / 8, active);
            }
        }
    }

    private void WalkL2(long table, long l1Index, bool active)
    {
        int entrySize = _header.L2EntrySize;
        long end = table + _clusterSize;
        for (long at = table; (at = _file.SkipZeroes(at, end)) < end; at += entrySize)
        {
            ulong entry = _reader.Read64(at);
            ulong bitmap = _header.ExtendedL2 ? _reader.Read64(at + 8) : 0;
            if ((entry & PlainReader.CompressedFlag) != 0)
            {
                CheckCompressed(entry, bitmap);
                continue;
            }

            long cluster = (long)(entry & PlainReader.OffsetMask);
            CheckEntry(entry, bitmap, cluster);
            if (_header.ExternalData)
            {
                long guest = ((l1Index * (_clusterSize / entrySize)) + ((at - table) / entrySize)) * _clusterSize;
                if ((cluster != 0 || (entry & PlainReader.CopiedFlag) != 0) && cluster != guest)
                    Error("L2 entry 0x{0:x} of the data file is not at guest offset 0x{1:x}", entry, guest);
            }
            else if (cluster != 0 && IsAligned(cluster, Use.Data))
            {
                Refer(cluster, 1, Use.Data, shared: !active);
            }
        }
    }

    private void CheckEntry(ulong entry, ulong bitmap, long cluster)
    {
        bool zeroFlagAllowed = _header.Version == 3 && !_header.ExtendedL2;
        if ((entry & (L2Reserved | (zeroFlagAllowed ? 0 : ZeroFlag))) != 0)
            Error("L2 entry 0x{0:x} has reserved bits set", entry);
        if (((uint)bitmap & (uint)(bitmap >> 32)) != 0)
            Error("L2 entry 0x{0:x}: subclusters both allocated and zero: 0x{1:x}", entry, bitmap);
        if (cluster == 0 && !_header.ExternalData && ((uint)bitmap != 0 || (entry & PlainReader.CopiedFlag) != 0))
            Error("L2 entry 0x{0:x} with bitmap 0x{1:x} names no cluster", entry, bitmap);
    }

    private void CheckCompressed(ulong entry, ulong bitmap)
    {
        if ((entry & PlainReader.CopiedFlag) != 0)
            Error("compressed L2 entry 0x{0:x} has the COPIED flag", entry);
        if (bitmap != 0)
            Error("compressed L2 entry 0x{0:x} has bitmap 0x{1:x}", entry, bitmap);
        if (_header.ExternalData)
            Error("compressed L2 entry 0x{0:x} in an image with a data file", entry);
        else
            Refer(_reader.CompressedOffset(entry), _reader.CompressedLength(entry), Use.Compressed, shared: true);
    }

    private void WalkSnapshots()
    {
        if (_header.SnapshotCount == 0)
            return;
        IReadOnlyList<PlainSnapshot> snapshots = _reader.Snapshots();
        Refer(_header.SnapshotTableOffset, _reader.SnapshotTableEnd - _header.SnapshotTableOffset, Use.SnapshotTable);
        foreach (PlainSnapshot snapshot in snapshots)
            WalkL1(snapshot.L1Offset, snapshot.L1Entries, active: false);
    }

    private void WalkExtensions()
    {
        if (_header.Encryption.Length != 0)
            Refer(_header.Encryption.Offset, _header.Encryption.Length, Use.Encryption);
        (long start, long length) = _header.BitmapDirectory;
        if (length == 0 || (_header.Autoclear & 1) == 0 || !Refer(start, length, Use.Bitmap))
            return;
        byte[] directory = new byte[checked((int)length)];
        _file.Read(start, directory);
        for (int at = 0; at + 24 <= directory.Length;)
        {
            long table = checked((long)BinaryPrimitives.ReadUInt64BigEndian(directory.AsSpan(at)));
            long entries = BinaryPrimitives.ReadUInt32BigEndian(directory.AsSpan(at + 8));
            CheckBitmap(directory.AsSpan(at), entries);
            if (Refer(table, entries * 8, Use.Bitmap))
            {
                for (long i = 0; i < entries; i++)
                {
                    long cluster = (long)(_reader.Read64(table + (i * 8)) & PlainReader.OffsetMask);
                    if (cluster != 0 && IsAligned(cluster, Use.Bitmap))
                        Refer(cluster, 1, Use.Bitmap);
                }
            }

            int names = BinaryPrimitives.ReadUInt16BigEndian(directory.AsSpan(at + 18))
                + (int)BinaryPrimitives.ReadUInt32BigEndian(directory.AsSpan(at + 20));
            at += (24 + names + 7) / 8 * 8;
        }
    }

    /// <summary>A bitmap that is not in use has a bit for every granule of the disk.</summary>
    private void CheckBitmap(ReadOnlySpan<byte> fields, long entries)
    {
        uint flags = BinaryPrimitives.ReadUInt32BigEndian(fields[12..]);
        long granularity = 1L << fields[17];
        long bytes = (((_header.Size + granularity - 1) / granularity) + 7) / 8;
        if ((flags & 1) == 0 && entries != (bytes + _clusterSize - 1) / _clusterSize)
            Error("a bitmap of {0} bytes has a table of {1} entries", bytes, entries);
    }

    private void Compare()
    {
        for (int cluster = 0; cluster < _references.Length; cluster++)
        {
            ulong expected = (ulong)_references[cluster];
            if (_stored[cluster] > expected)
            {
                Leaks++;
            }
            else if (_stored[cluster] < expected && !_header.Dirty)
            {
                Error(
                    "cluster 0x{0:x} ({1}) has refcount {2} and {3} references",
                    (long)cluster * _clusterSize, _uses[cluster], _stored[cluster], expected);
            }
        }
    }

    /// <summary>COPIED is set in the active tables exactly where the stored refcount is one.</summary>
    private void WalkFlags()
    {
        if (_header.Dirty || _header.L1Offset % _clusterSize != 0)
            return;
        long end = Math.Min(_header.L1Offset + ((long)_header.L1Entries * 8), _file.Length);
        for (long at = _header.L1Offset; (at = _file.SkipZeroes(at, end)) < end; at += 8)
        {
            ulong entry = _reader.Read64(at);
            long table = (long)(entry & PlainReader.OffsetMask);
            if (table == 0 || table >= _file.Length)
                continue;
            CheckFlag(entry, table, "L1");
            if (_header.ExternalData)
                continue;
            long tableEnd = table + _clusterSize;
            for (long l2 = table; (l2 = _file.SkipZeroes(l2, tableEnd)) < tableEnd; l2 += _header.L2EntrySize)
            {
                ulong data = _reader.Read64(l2);
                if ((data & PlainReader.CompressedFlag) == 0 && (data & PlainReader.OffsetMask) != 0)
                    CheckFlag(data, (long)(data & PlainReader.OffsetMask), "L2");
            }
        }
    }

    private void CheckFlag(ulong entry, long offset, string level)
    {
        long cluster = offset / _clusterSize;
        bool isSet = (entry & PlainReader.CopiedFlag) != 0;
        if (cluster >= _stored.Length || isSet == (_stored[cluster] == 1))
            return;
        if (!_allowStaleFlags || (isSet && _references[cluster] > 1))
            Error("{0} entry 0x{1:x} and refcount {2} disagree about COPIED", level, entry, _stored[cluster]);
    }
}
