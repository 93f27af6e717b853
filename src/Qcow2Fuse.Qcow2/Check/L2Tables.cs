// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>The L2 tables that L1 entries name, in order of their place in the file, each of them once.</summary>
internal sealed class L2Tables : IDisposable
{
    private const string What = "the list of its tables";

    private readonly MemoryBudget _memory;
    private readonly string _name;
    private readonly NativeTable<long> _clusters;
    private readonly NativeTable<uint> _times;
    private NativeTable<int>? _firstUses;

    private L2Tables(int length, MemoryBudget memory, string name)
    {
        _memory = memory;
        _name = name;
        _clusters = new NativeTable<long>(length, memory, name, What);
        try
        {
            _times = new NativeTable<uint>(length, memory, name, What);
        }
        catch
        {
            _clusters.Dispose();
            throw;
        }
    }

    /// <summary>No table.</summary>
    public static L2Tables None { get; } = new(0, MemoryBudget.Unlimited, "");

    public int Length => _clusters.Span.Length;

    /// <summary>Host clusters of the tables, ascending.</summary>
    public ReadOnlySpan<long> Clusters => _clusters.Span;

    /// <summary>Takes over what has been counted, which must be L2 tables and nothing else.</summary>
    public static L2Tables From(ReferenceCounts counts)
    {
        int length = 0;
        counts.VisitCells((long _, ref uint cell) => length += ReferenceCounts.CountOf(cell) != 0 ? 1 : 0);
        L2Tables tables = new(length, counts.Memory, counts.Name);
        int next = 0;
        counts.VisitCells((long cluster, ref uint cell) =>
        {
            if (ReferenceCounts.CountOf(cell) == 0)
                return;
            tables._clusters.Span[next] = cluster;
            tables._times.Span[next++] = ReferenceCounts.CountOf(cell);
        });
        return tables;
    }

    /// <summary>How many L1 entries name the table number <paramref name="index"/>.</summary>
    public uint Times(int index) => _times.Span[index];

    /// <summary>How many L1 entries name the table in <paramref name="cluster"/>, 0 where none does.</summary>
    public uint TimesOf(long cluster)
    {
        int index = Clusters.BinarySearch(cluster);
        return index < 0 ? 0 : _times.Span[index];
    }

    /// <summary>Index of the first L1 entry that names a table; after <see cref="FindFirstUses"/>.</summary>
    public int FirstUseOf(long cluster) => _firstUses!.Span[Clusters.BinarySearch(cluster)];

    /// <summary>Goes through the active L1 table and notes for each table the first entry that names it.</summary>
    public void FindFirstUses(MetadataReader reader, Qcow2Header header, Qcow2Geometry geometry)
    {
        _firstUses = new NativeTable<int>(Length, _memory, _name, What);
        _firstUses.Span.Fill(int.MaxValue);
        reader.Visit(header.L1Offset, header.L1Size * 8L, (at, piece) =>
        {
            int words = piece.Length / 8;
            for (int i = MetadataReader.NextNonZero(piece, 0); i < words; i = MetadataReader.NextNonZero(piece, i + 1))
            {
                long offset = (long)(BigEndian.U64(piece, i * 8) & L1Entry.OffsetMask);
                int index = Clusters.BinarySearch(offset >> geometry.ClusterBits);
                if (index < 0)
                    continue;
                ref int first = ref _firstUses.Span[index];
                first = Math.Min(first, (int)((at - header.L1Offset) / 8) + i);
            }
        });
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _clusters.Dispose();
        _times.Dispose();
        _firstUses?.Dispose();
    }
}
