// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2;

/// <summary>The L2 tables that L1 entries name, in order of their place in the file, each of them once.</summary>
internal sealed class L2Tables
{
    private readonly long[] _clusters;
    private readonly uint[] _times;
    private int[] _firstUses = [];

    private L2Tables(long[] clusters, uint[] times)
    {
        _clusters = clusters;
        _times = times;
    }

    /// <summary>No table.</summary>
    public static L2Tables None { get; } = new([], []);

    public int Length => _clusters.Length;

    /// <summary>Host clusters of the tables, ascending.</summary>
    public ReadOnlySpan<long> Clusters => _clusters;

    /// <summary>Takes over what has been counted, which must be L2 tables and nothing else.</summary>
    public static L2Tables From(ReferenceCounts counts)
    {
        int length = 0;
        counts.VisitCells((long _, ref uint cell) => length += ReferenceCounts.CountOf(cell) != 0 ? 1 : 0);
        L2Tables tables = new(new long[length], new uint[length]);
        int next = 0;
        counts.VisitCells((long cluster, ref uint cell) =>
        {
            if (ReferenceCounts.CountOf(cell) == 0)
                return;
            tables._clusters[next] = cluster;
            tables._times[next++] = ReferenceCounts.CountOf(cell);
        });
        return tables;
    }

    /// <summary>How many L1 entries name the table number <paramref name="index"/>.</summary>
    public uint Times(int index) => _times[index];

    /// <summary>How many L1 entries name the table in <paramref name="cluster"/>, 0 where none does.</summary>
    public uint TimesOf(long cluster)
    {
        int index = Array.BinarySearch(_clusters, cluster);
        return index < 0 ? 0 : _times[index];
    }

    /// <summary>Index of the first L1 entry that names a table; after <see cref="FindFirstUses"/>.</summary>
    public int FirstUseOf(long cluster) => _firstUses[Array.BinarySearch(_clusters, cluster)];

    /// <summary>Goes through the active L1 table and notes for each table the first entry that names it.</summary>
    public void FindFirstUses(MetadataReader reader, Qcow2Header header, Qcow2Geometry geometry)
    {
        _firstUses = new int[_clusters.Length];
        Array.Fill(_firstUses, int.MaxValue);
        reader.Visit(header.L1Offset, header.L1Size * 8L, (at, piece) =>
        {
            int words = piece.Length / 8;
            for (int i = MetadataReader.NextNonZero(piece, 0); i < words; i = MetadataReader.NextNonZero(piece, i + 1))
            {
                long offset = (long)(BigEndian.U64(piece, i * 8) & L1Entry.OffsetMask);
                int index = Array.BinarySearch(_clusters, offset >> geometry.ClusterBits);
                if (index >= 0)
                    _firstUses[index] = Math.Min(_firstUses[index], (int)((at - header.L1Offset) / 8) + i);
            }
        });
    }
}
