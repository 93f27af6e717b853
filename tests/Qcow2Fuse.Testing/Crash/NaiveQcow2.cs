// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>
/// The least engine that writes qcow2 images without extended L2 entries: one lock, no cache, a flush wherever order
/// matters. It exists to try the crash tests on something known to be right, and known to be wrong.
/// </summary>
public sealed class NaiveQcow2 : BlockDevice
{
    private const ulong OffsetMask = 0x00FFFFFFFFFFFE00;
    private const ulong Copied = 1UL << 63;
    private const ulong ZeroFlag = 1;

    private readonly BlockDevice _file;
    private readonly BlockDevice? _backing;
    private readonly NaiveFault _fault;
    private readonly Lock _lock = new();
    private readonly int _version;
    private readonly int _clusterSize;
    private readonly long _l1Offset;
    private readonly long _refcountTable;
    private readonly int _entries;
    private bool _flushHasFailed;
    private int _errorsSwallowed;

    /// <summary>Opens the image, which <see cref="Create"/> made.</summary>
    public NaiveQcow2(BlockDevice file, BlockDevice? backing, NaiveFault fault)
    {
        _file = file;
        _backing = backing;
        _fault = fault;
        _version = (int)(Read64(0) & 0xFFFFFFFF);
        _clusterSize = 1 << (int)(Read64(16) & 0xFFFFFFFF);
        Length = (long)Read64(24);
        _l1Offset = (long)Read64(40);
        _refcountTable = (long)Read64(48);
        _entries = _clusterSize / 8;
    }

    /// <inheritdoc/>
    public override string Name => "naive";

    /// <inheritdoc/>
    public override long Length { get; }

    /// <inheritdoc/>
    public override bool IsReadOnly => false;

    private int RefcountsPerBlock => _clusterSize / 2;

    /// <summary>Writes an empty image: header, refcount table, one refcount block, L1 table.</summary>
    public static void Create(BlockDevice file, ImageKind kind)
    {
        int cluster = kind.ClusterSize;
        long perTable = (long)cluster * (cluster / 8);
        int l1Entries = (int)((kind.Size + perTable - 1) / perTable);
        int l1Clusters = ((l1Entries * 8) + cluster - 1) / cluster;
        byte[] image = new byte[(3 + l1Clusters) * cluster];
        void Put32(int offset, int value) => BinaryPrimitives.WriteInt32BigEndian(image.AsSpan(offset), value);
        void Put64(int offset, long value) => BinaryPrimitives.WriteInt64BigEndian(image.AsSpan(offset), value);
        Put32(0, 0x514649FB);
        Put32(4, kind.Version);
        Put32(20, kind.ClusterBits);
        Put64(24, kind.Size);
        Put32(36, l1Entries);
        Put64(40, 3 * cluster);
        Put64(48, cluster);
        Put32(56, 1);
        if (kind.Version == 3)
        {
            Put32(96, 4);
            Put32(100, 104);
        }

        if (kind.HasBacking)
        {
            int at = kind.Version == 3 ? 104 : 72;
            BinaryPrimitives.WriteUInt32BigEndian(image.AsSpan(at), 0xE2792ACA);
            Put32(at + 4, 3);
            "raw"u8.CopyTo(image.AsSpan(at + 8));
            Put64(8, 256);
            "backing.raw"u8.CopyTo(image.AsSpan(256));
            Put32(16, "backing.raw".Length);
        }

        Put64(cluster, 2 * cluster);
        for (int i = 0; i < 3 + l1Clusters; i++)
            image[(2 * cluster) + (i * 2) + 1] = 1;
        file.Write(0, image);
        file.Flush();
    }

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        lock (_lock)
        {
            CheckRange(offset, destination.Length);
            while (!destination.IsEmpty)
            {
                int within = (int)(offset % _clusterSize);
                Span<byte> piece = destination[..Math.Min(_clusterSize - within, destination.Length)];
                ReadPiece(EntryAt(offset, out _), offset, piece);
                offset += piece.Length;
                destination = destination[piece.Length..];
            }
        }
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        lock (_lock)
        {
            CheckRange(offset, source.Length);
            while (!source.IsEmpty)
            {
                int within = (int)(offset % _clusterSize);
                int length = Math.Min(_clusterSize - within, source.Length);
                WritePiece(offset, source[..length]);
                offset += length;
                source = source[length..];
            }
        }
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        lock (_lock)
        {
            CheckRange(offset, length);
            for (long end = offset + length; offset < end;)
            {
                int within = (int)(offset % _clusterSize);
                int piece = (int)Math.Min(_clusterSize - within, end - offset);
                if (piece == _clusterSize && _version == 3)
                    Unmap(offset, mayUnmap ? ZeroFlag : (EntryAt(offset, out _) & ~ZeroFlag) | ZeroFlag);
                else
                    WritePiece(offset, new byte[piece]);
                offset += piece;
            }
        }
    }

    /// <inheritdoc/>
    public override void Discard(long offset, long length)
    {
        lock (_lock)
        {
            CheckRange(offset, length);
            long first = (offset + _clusterSize - 1) / _clusterSize, last = (offset + length) / _clusterSize;
            for (long cluster = first; cluster < last; cluster++)
            {
                if (_version == 3)
                    Unmap(cluster * _clusterSize, ZeroFlag);
                else if (_backing is null)
                    Unmap(cluster * _clusterSize, 0);
            }
        }
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        lock (_lock)
        {
            if (_fault != NaiveFault.FlushDoesNothing)
                FlushFile();
        }
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length) => new(offset, length, ExtentKind.Data, -1, 0);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            if (!_flushHasFailed)
                _file.Flush();
            _file.Dispose();
            _backing?.Dispose();
        }

        base.Dispose(disposing);
    }

    /// <summary>After a failed flush nothing is known to be durable, so none succeeds any more.</summary>
    private void FlushFile()
    {
        if (_flushHasFailed && _fault != NaiveFault.ForgetsFailedFlush)
            throw new BlockException(BlockErrorKind.Io, "naive: an earlier flush failed");
        _flushHasFailed = true;
        _file.Flush();
        _flushHasFailed = false;
    }

    private void ReadPiece(ulong entry, long offset, Span<byte> piece)
    {
        long host = (long)(entry & OffsetMask);
        if ((entry & ZeroFlag) != 0 || (host == 0 && _backing is null))
            piece.Clear();
        else if (host == 0)
            _backing!.ReadPadded(offset, piece);
        else
            _file.ReadPadded(host + (offset % _clusterSize), piece);
    }

    private void WritePiece(long offset, ReadOnlySpan<byte> source)
    {
        ulong entry = EntryAt(offset, out long entryOffset);
        long host = (long)(entry & OffsetMask);
        int within = (int)(offset % _clusterSize);
        if (host != 0 && (entry & ZeroFlag) == 0)
        {
            if (_fault == NaiveFault.ZeroBeforeWrite)
                _file.WriteZeroes(host + within, source.Length, mayUnmap: true);
            int far = _fault == NaiveFault.WriteOneSectorTooFar && source.Length > 1024 ? 512 : 0;
            _file.Write(host + within + far, source);
            return;
        }

        byte[] cluster = new byte[_clusterSize];
        if (_fault != NaiveFault.NoCopyOnWrite)
        {
            long start = offset - within;
            ReadPiece(entry, start, cluster.AsSpan(0, (int)Math.Min(_clusterSize, Length - start)));
        }

        source.CopyTo(cluster.AsSpan(within));
        if (entryOffset == 0)
            entryOffset = AddL2Table(offset);
        bool isNew = host == 0;
        if (isNew)
            host = FindFree();
        if (isNew && _fault != NaiveFault.RefcountAfterLink)
            SetRefcount(host, 1);
        try
        {
            _file.Write(host, cluster);
        }
        catch (BlockException) when (_fault == NaiveFault.SwallowsErrors)
        {
            Interlocked.Increment(ref _errorsSwallowed);
        }

        if (_fault != NaiveFault.LinkWithoutFlush)
            FlushFile();
        Write64(entryOffset, (ulong)host | Copied);
        if (isNew && _fault == NaiveFault.RefcountAfterLink)
            SetRefcount(host, 1);
    }

    private void Unmap(long guest, ulong newEntry)
    {
        ulong entry = EntryAt(guest, out long entryOffset);
        if (entry == newEntry || (entryOffset == 0 && newEntry == 0))
            return;
        if (entryOffset == 0)
            entryOffset = AddL2Table(guest);
        Write64(entryOffset, newEntry);
        long host = (long)(entry & OffsetMask);
        if (host == 0 || host == (long)(newEntry & OffsetMask))
            return;
        if (_fault != NaiveFault.ReuseAtOnce)
            FlushFile();
        SetRefcount(host, 0);
        if (_fault == NaiveFault.FreeTwice)
            SetRefcount(host + _clusterSize, 0);
    }

    /// <summary>The L2 entry of a guest offset and where it lies, (0, 0) where there is no table.</summary>
    private ulong EntryAt(long guest, out long entryOffset)
    {
        long cluster = guest / _clusterSize;
        long table = (long)(Read64(_l1Offset + (cluster / _entries * 8)) & OffsetMask);
        entryOffset = table == 0 ? 0 : table + (cluster % _entries * 8);
        return table == 0 ? 0 : Read64(entryOffset);
    }

    private long AddL2Table(long guest)
    {
        long cluster = guest / _clusterSize;
        long table = FindFree();
        SetRefcount(table, 1);
        _file.Write(table, new byte[_clusterSize]);
        FlushFile();
        Write64(_l1Offset + (cluster / _entries * 8), (ulong)table | Copied);
        return table + (cluster % _entries * 8);
    }

    private long FindFree()
    {
        for (long cluster = 0; ; cluster++)
        {
            long block = (long)Read64(_refcountTable + (cluster / RefcountsPerBlock * 8));
            if (block == 0)
            {
                // A new block describes itself first: it is the first cluster of the range it covers.
                byte[] content = new byte[_clusterSize];
                content[1] = 1;
                _file.Write(cluster * _clusterSize, content);
                FlushFile();
                Write64(_refcountTable + (cluster / RefcountsPerBlock * 8), (ulong)(cluster * _clusterSize));
                FlushFile();
            }
            else if (Refcount(block, cluster) == 0)
            {
                return cluster * _clusterSize;
            }
        }
    }

    private int Refcount(long block, long cluster)
    {
        Span<byte> bytes = stackalloc byte[2];
        _file.ReadPadded(block + (cluster % RefcountsPerBlock * 2), bytes);
        return BinaryPrimitives.ReadUInt16BigEndian(bytes);
    }

    private void SetRefcount(long host, ushort value)
    {
        long cluster = host / _clusterSize;
        long block = (long)Read64(_refcountTable + (cluster / RefcountsPerBlock * 8));
        Span<byte> bytes = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16BigEndian(bytes, value);
        if (block != 0)
            _file.Write(block + (cluster % RefcountsPerBlock * 2), bytes);
    }

    private ulong Read64(long offset)
    {
        Span<byte> bytes = stackalloc byte[8];
        _file.ReadPadded(offset, bytes);
        return BinaryPrimitives.ReadUInt64BigEndian(bytes);
    }

    private void Write64(long offset, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(bytes, value);
        _file.Write(offset, bytes);
    }
}
