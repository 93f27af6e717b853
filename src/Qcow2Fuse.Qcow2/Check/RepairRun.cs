// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>Changes the bytes of a slice of a table at a host offset; true if there was something to change.</summary>
internal delegate bool SliceEditor(long offset, Span<byte> slice);

/// <summary>
/// The steps of a repair, after a check that has understood everything. Each step is durable when it returns.
/// </summary>
/// <param name="file">The image file.</param>
/// <param name="run">The finished check; its counts are what refcounts become.</param>
internal sealed class RepairRun(BlockDevice file, CheckRun run)
{
    private const int SliceBytes = 4096;

    private readonly Qcow2Header _header = run.Header;
    private readonly Qcow2Geometry _geometry = run.Geometry;
    private readonly ReferenceCounts _counts = run.Counts;
    private readonly MetadataReader _reader = new(file);
    private readonly SortedDictionary<int, long> _newBlocks = [];
    private bool _hasLoweredBeyond;

    /// <summary>Refcounts that were lowered, of clusters that the file has.</summary>
    public long Lowered { get; private set; }

    /// <summary>Refcounts that were raised.</summary>
    public long Raised { get; private set; }

    /// <summary>COPIED flags that were set or cleared.</summary>
    public long FlagsChanged { get; private set; }

    /// <summary>Whether anything was written.</summary>
    public bool HasChanged => Lowered + Raised + FlagsChanged > 0 || _hasLoweredBeyond;

    /// <summary>
    /// Raises all refcounts that are too low. Refcount blocks that are missing are made: each is durable before the
    /// refcount table names it.
    /// </summary>
    /// <exception cref="BlockException">
    /// A refcount does not fit, or a block does not. Nothing has been changed then.
    /// </exception>
    public void Raise()
    {
        PlanBlocks();
        foreach ((int index, long cluster) in _newBlocks)
            WriteBlock(index, cluster);
        RaiseInBlocks();
        if (Raised == 0)
            return;
        file.Flush();
        if (_newBlocks.Count == 0)
            return;
        Span<byte> entry = stackalloc byte[8];
        foreach ((int index, long cluster) in _newBlocks)
        {
            BigEndian.U64(entry, 0, (ulong)(cluster << _geometry.ClusterBits));
            file.Write(_header.RefcountTableOffset + (index * 8L), entry);
        }

        file.Flush();
    }

    /// <summary>Makes COPIED flags say what the refcounts are going to say.</summary>
    public void SetCopiedFlags()
    {
        long before = FlagsChanged;
        if (_header.L1Size > 0)
            Edit(_header.L1Offset, _header.L1Size * 8L, EditL1);
        foreach (long cluster in run.ActiveTables.Clusters)
            Edit(cluster << _geometry.ClusterBits, _geometry.ClusterSize, EditL2);
        if (FlagsChanged != before)
            file.Flush();
    }

    /// <summary>Lowers all refcounts that are too high.</summary>
    public void Lower()
    {
        for (int i = 0; i < run.RefcountTable.Length; i++)
        {
            long block = run.BlockAt(i);
            if (block < 0)
                continue;
            int index = i;
            Edit(block, _geometry.ClusterSize, (offset, slice) => LowerInSlice(index, block, offset, slice));
        }

        if (Lowered > 0 || _hasLoweredBeyond)
            file.Flush();
    }

    /// <summary>Finds a place for every block that is missing, and counts the blocks themselves.</summary>
    private void PlanBlocks()
    {
        ulong max = RefcountField.Max(_geometry.RefcountOrder);
        SortedSet<int> missing = [];
        _counts.VisitCells((long cluster, ref uint cell) =>
        {
            uint count = ReferenceCounts.CountOf(cell);
            if (count == 0)
                return;
            if (count > max)
                throw Refused($"cluster {cluster} has {count} references, more than its refcount can hold");
            int index = IndexOf(cluster);
            if (run.BlockAt(index) < 0)
                missing.Add(index);
        });
        foreach (int index in missing)
        {
            if (!_newBlocks.ContainsKey(index))
                _newBlocks.Add(index, PlaceFor(index));
        }
    }

    /// <summary>
    /// A block counts itself where its range has a cluster to spare. Otherwise it goes to the end of the file.
    /// </summary>
    private long PlaceFor(int index)
    {
        int bits = _geometry.RefcountBlockBits;
        for (long cluster = (long)index << bits; cluster < (index + 1L) << bits; cluster++)
        {
            if (TryTake(cluster))
                return cluster;
        }

        for (long cluster = run.FileClusters; ; cluster++)
        {
            int other = IndexOf(cluster);
            if (run.BlockAt(other) < 0 && !_newBlocks.ContainsKey(other))
                _newBlocks.Add(other, PlaceFor(other));
            if (TryTake(cluster))
                return cluster;
        }
    }

    private bool TryTake(long cluster)
    {
        if (ReferenceCounts.CountOf(_counts[cluster]) != 0)
            return false;
        _counts.Add(cluster, ClusterUse.RefcountBlock, 1);
        return true;
    }

    private int IndexOf(long cluster)
    {
        long index = cluster >> _geometry.RefcountBlockBits;
        return index < run.RefcountTable.Length
            ? (int)index : throw Refused("its refcount table would have to grow");
    }

    private void WriteBlock(int index, long cluster)
    {
        using PooledBuffer block = BufferPool.Shared.Rent(_geometry.ClusterSize);
        Span<byte> bytes = block.Span;
        bytes.Clear();
        for (int i = 0; i < 1 << _geometry.RefcountBlockBits; i++)
        {
            uint count = ReferenceCounts.CountOf(_counts[((long)index << _geometry.RefcountBlockBits) + i]);
            if (count == 0)
                continue;
            RefcountField.Write(bytes, i, _geometry.RefcountOrder, count);
            Raised++;
        }

        file.Write(cluster << _geometry.ClusterBits, bytes);
    }

    /// <summary>
    /// Raises refcounts in the blocks that are there. Clusters come in ascending order, so each slice is read and
    /// written once.
    /// </summary>
    private void RaiseInBlocks()
    {
        int order = _geometry.RefcountOrder;
        int size = _geometry.SliceBytes;
        byte[] slice = new byte[size];
        long loaded = -1;
        bool changed = false;

        void Store()
        {
            if (changed)
                file.Write(loaded, slice);
            changed = false;
        }

        _counts.VisitCells((long cluster, ref uint cell) =>
        {
            uint count = ReferenceCounts.CountOf(cell);
            long block = count == 0 ? -1 : run.BlockAt(IndexOf(cluster));
            if (block < 0)
                return;
            int number = (int)(cluster & ((1L << _geometry.RefcountBlockBits) - 1));
            int perSlice = _geometry.RefcountSliceEntries;
            long place = block + ((long)(number / perSlice) * size);
            if (place != loaded)
            {
                Store();
                file.ReadPadded(place, slice);
                loaded = place;
            }

            if (RefcountField.Read(slice, number % perSlice, order) >= count)
                return;
            RefcountField.Write(slice, number % perSlice, order, count);
            changed = true;
            Raised++;
        });
        Store();
    }

    private bool LowerInSlice(int index, long block, long offset, Span<byte> slice)
    {
        int order = _geometry.RefcountOrder;
        long first = ((long)index << _geometry.RefcountBlockBits) + ((offset - block) * 8 >> order);
        int perWord = order == 6 ? 1 : 64 >> order;
        bool changed = false;
        for (int word = MetadataReader.NextNonZero(slice, 0);
            word < slice.Length / 8;
            word = MetadataReader.NextNonZero(slice, word + 1))
        {
            for (int i = word * perWord; i < (word + 1) * perWord; i++)
            {
                uint count = ReferenceCounts.CountOf(_counts[first + i]);
                if (RefcountField.Read(slice, i, order) <= count)
                    continue;
                RefcountField.Write(slice, i, order, count);
                changed = true;
                if (first + i < run.FileClusters)
                    Lowered++;
                else
                    _hasLoweredBeyond = true;
            }
        }

        return changed;
    }

    private bool EditL1(long offset, Span<byte> slice)
    {
        long before = FlagsChanged;
        for (int i = MetadataReader.NextNonZero(slice, 0);
            i < slice.Length / 8;
            i = MetadataReader.NextNonZero(slice, i + 1))
        {
            ulong entry = BigEndian.U64(slice, i * 8);
            SetFlag(slice, i * 8, entry, IsUsedOnce((long)(entry & L1Entry.OffsetMask)));
        }

        return FlagsChanged != before;
    }

    private bool EditL2(long offset, Span<byte> slice)
    {
        long before = FlagsChanged;
        for (int at = 0; at < slice.Length; at += _geometry.L2EntryBytes)
        {
            L2Entry entry = L2Entry.Read(slice[at..], 0, _geometry);
            if (entry.Descriptor == 0 || entry.IsCompressed)
                continue;
            bool expected = _geometry.DataIsExternal
                ? entry.HasHost || entry.IsCopied
                : entry.HasHost && IsUsedOnce(entry.Host.Value);
            SetFlag(slice, at, entry.Descriptor, expected);
        }

        return FlagsChanged != before;
    }

    private bool IsUsedOnce(long host) => ReferenceCounts.CountOf(_counts[host >> _geometry.ClusterBits]) == 1;

    private void SetFlag(Span<byte> slice, int at, ulong entry, bool expected)
    {
        ulong changed = expected ? entry | L2Entry.CopiedFlag : entry & ~L2Entry.CopiedFlag;
        if (changed == entry)
            return;
        BigEndian.U64(slice, at, changed);
        FlagsChanged++;
    }

    /// <summary>Reads a table, lets each slice be changed, and writes those that were.</summary>
    private void Edit(long offset, long length, SliceEditor editor)
    {
        byte[] scratch = new byte[SliceBytes];
        _reader.Visit(offset, length, (at, piece) =>
        {
            while (!piece.IsEmpty)
            {
                Span<byte> slice = scratch.AsSpan(0, Math.Min(piece.Length, SliceBytes));
                piece[..slice.Length].CopyTo(slice);
                if (editor(at, slice))
                    file.Write(at, slice);
                piece = piece[slice.Length..];
                at += slice.Length;
            }
        });
    }

    private BlockException Refused(string reason) => new(
        BlockErrorKind.ReadOnly,
        $"{file.Name}: the image was not closed cleanly and cannot be repaired: {reason}",
        cause: FailureCode.Damaged);
}
