// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>What a host cluster is used for.</summary>
internal enum ClusterUse
{
    None,
    Header,
    RefcountTable,
    RefcountBlock,
    L1Table,
    SnapshotL1Table,
    L2Table,
    Data,
    Compressed,
    SnapshotTable,
    Encryption,
    BitmapDirectory,
    BitmapTable,
    Bitmap,
}

/// <summary>Gets the cell of a cluster; see <see cref="ReferenceCounts"/>.</summary>
internal delegate void CellVisitor(long cluster, ref uint cell);

/// <summary>
/// How often each host cluster is referenced and what for: four bytes a cluster, in pieces of native memory that exist
/// where something is referenced, so that holes of any size cost nothing. Not for several threads.
/// </summary>
/// <remarks>
/// Bits of a cell: 0–23 references, 24 the stored refcount is one, 25 stored and counted references were compared,
/// 26 used for two things, 27 a refcount block that was read, 28–31 <see cref="ClusterUse"/>.
/// </remarks>
internal sealed unsafe class ReferenceCounts : IDisposable
{
    /// <summary>More references than this are not told apart.</summary>
    public const uint CountMax = (1 << 24) - 1;

    /// <summary>Set where the refcount in the image is one.</summary>
    public const uint StoredOne = 1 << 24;

    /// <summary>Set once the cluster was compared with its refcount.</summary>
    public const uint Compared = 1 << 25;

    /// <summary>Set where uses exclude each other.</summary>
    public const uint Overlap = 1 << 26;

    /// <summary>Set where a refcount block begins that the table has named before.</summary>
    public const uint BlockSeen = 1 << 27;

    private const int UseShift = 28;
    private const int ChunkBits = 10;
    private const int ChunkCells = 1 << ChunkBits;
    private const int ChunkBytes = ChunkCells * sizeof(uint);

    private const string CountMemory = "counting its clusters";

    private const int SecondUsesMax = 1000;

    private readonly Dictionary<long, nint> _chunks = [];
    private readonly Dictionary<long, ClusterUse> _secondUses = [];
    private readonly long _chunksMax;
    private readonly MemoryCharge _charge;
    private long _lastIndex = -1;
    private uint* _last;

    /// <param name="bytesMax">Memory to take at most.</param>
    /// <param name="name">What messages call the image.</param>
    /// <param name="memory">Where it is taken from.</param>
    public ReferenceCounts(long bytesMax, string name, MemoryBudget memory)
    {
        _chunksMax = bytesMax / ChunkBytes;
        _charge = memory.Take(0, name, CountMemory);
        Name = name;
        Memory = memory;
    }

    /// <summary>What messages call the image.</summary>
    public string Name { get; }

    /// <summary>Where memory is taken from.</summary>
    public MemoryBudget Memory { get; }

    /// <summary>The number of references in a cell.</summary>
    public static uint CountOf(uint cell) => cell & CountMax;

    /// <summary>The first use of a cell's cluster.</summary>
    public static ClusterUse UseOf(uint cell) => (ClusterUse)(cell >> UseShift);

    /// <summary>The cell of a cluster, 0 where nothing is known of it.</summary>
    public uint this[long cluster] => Find(cluster >> ChunkBits) ? _last[cluster & (ChunkCells - 1)] : 0;

    /// <summary>Counts references; a use that excludes the earlier one marks the cluster.</summary>
    public void Add(long cluster, ClusterUse use, uint times)
    {
        ref uint cell = ref Cell(cluster);
        uint count = CountOf(cell);
        if (count == 0 && UseOf(cell) == ClusterUse.None)
            cell |= (uint)use << UseShift;
        else if (UseOf(cell) != use || !MayBeShared(use))
            cell |= Excluded(cluster, use);
        if (times > CountMax - count)
        {
            times = CountMax - count;
            cell |= Excluded(cluster, use);
        }

        cell += times;
    }

    /// <summary>Sets one of the marks.</summary>
    public void Mark(long cluster, uint mark) => Cell(cluster) |= mark;

    /// <summary>The use that excludes the one of the cluster's cell, as far as it is remembered.</summary>
    public ClusterUse SecondUse(long cluster) => _secondUses.GetValueOrDefault(cluster);

    /// <summary>Visits all cells that are not 0 in ascending order of their clusters.</summary>
    public void VisitCells(CellVisitor visitor)
    {
        long[] indexes = [.. _chunks.Keys];
        Array.Sort(indexes);
        foreach (long index in indexes)
        {
            Span<uint> cells = new((void*)_chunks[index], ChunkCells);
            for (int i = 0; i < ChunkCells; i++)
            {
                int step = cells[i..].IndexOfAnyExcept(0u);
                if (step < 0)
                    break;
                i += step;
                visitor((index << ChunkBits) + i, ref cells[i]);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (nint chunk in _chunks.Values)
            NativeMemory.Free((void*)chunk);
        _chunks.Clear();
        _charge.Dispose();
        _lastIndex = -1;
    }

    /// <summary>Tables of L2 entries and what they name are shared by snapshots; all else has one owner.</summary>
    private static bool MayBeShared(ClusterUse use) =>
        use is ClusterUse.L2Table or ClusterUse.Data or ClusterUse.Compressed;

    private uint Excluded(long cluster, ClusterUse use)
    {
        if (_secondUses.Count < SecondUsesMax)
            _secondUses.TryAdd(cluster, use);
        return Overlap;
    }

    private BlockException TooMany(Exception? cause) =>
        new(BlockErrorKind.TooLarge, $"{Name}: its clusters are too many to be counted in memory", cause);

    private bool Find(long index)
    {
        if (index == _lastIndex)
            return true;
        if (!_chunks.TryGetValue(index, out nint chunk))
            return false;
        _lastIndex = index;
        _last = (uint*)chunk;
        return true;
    }

    private ref uint Cell(long cluster)
    {
        long index = cluster >> ChunkBits;
        if (!Find(index))
        {
            if (_chunks.Count >= _chunksMax)
                throw TooMany(null);
            _charge.Grow(ChunkBytes, Name, CountMemory);
            try
            {
                _last = (uint*)NativeMemory.AllocZeroed(ChunkBytes);
            }
            catch (OutOfMemoryException failure)
            {
                throw TooMany(failure);
            }

            _lastIndex = index;
            _chunks.Add(index, (nint)_last);
        }

        return ref _last[cluster & (ChunkCells - 1)];
    }
}
