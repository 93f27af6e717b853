// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Qcow2;

/// <summary>What a host cluster of metadata holds.</summary>
internal enum MetadataKind : byte
{
    Header,
    L1Table,
    L2Table,
    RefcountTable,
    RefcountBlock,
    SnapshotTable,
    InactiveL1Table,
    InactiveL2Table,
    BitmapDirectory,
    EncryptionHeader,
}

/// <summary>
/// Knows where all metadata of an image lies and lets neither guest data nor another table be written there, however
/// wrong its refcounts and L2 entries are.
/// </summary>
/// <remarks>
/// A question costs a binary search over the runs of metadata clusters, far fewer than the image has clusters: L2
/// tables and refcount blocks lie in runs where they were allocated in one go. All methods are called with the image's
/// gate held.
/// </remarks>
internal sealed class OverlapGuard(string name, Qcow2Geometry geometry)
{
    private readonly IntervalSet _clusters = new();

    /// <summary>Runs of clusters with metadata.</summary>
    public int Count => _clusters.Count;

    /// <summary>
    /// Starts anew with the given tables. An L2 table may be there several times, where snapshots share it.
    /// </summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.Corrupt"/> where two tables lie in one cluster.
    /// </exception>
    public void Build(List<(HostOffset Start, long Bytes, MetadataKind Kind)> tables)
    {
        _clusters.Clear();
        tables.Sort(static (left, right) => left.Start.Value.CompareTo(right.Start.Value));
        foreach ((HostOffset start, long bytes, MetadataKind kind) in tables)
        {
            if (bytes > 0)
                AddOne(start, bytes, kind);
        }
    }

    /// <summary>Says that clusters hold a table from now on.</summary>
    public void Add(HostOffset start, long bytes, MetadataKind kind) => AddOne(start, bytes, kind);

    /// <summary>Says that clusters, all of whose references are gone, hold no table any more.</summary>
    public void Remove(HostOffset start, int clusters)
    {
        long first = start.Value >> geometry.ClusterBits;
        _clusters.Remove(first, first + clusters);
    }

    /// <summary>Refuses clusters that are about to be handed out as free although they hold metadata.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Corrupt"/>.</exception>
    public void CheckFree(long cluster, int count)
    {
        if (_clusters.TryFind(cluster, cluster + count, out Interval found))
            throw Corrupt($"cluster {Math.Max(found.Start, cluster)} holds {Name(found)} and is counted as free");
    }

    /// <summary>Whether no metadata lies in the clusters of a range.</summary>
    public bool Allows(HostOffset host, long length) => !TryFind(host, length, out _);

    /// <summary>Refuses guest data at a place that holds metadata.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Corrupt"/>.</exception>
    public void CheckData(HostOffset host, long length, GuestOffset guest)
    {
        if (TryFind(host, length, out Interval found))
            throw Corrupt($"an L2 entry maps guest offset {guest.Value} to {Name(found)} at host offset {host.Value}");
    }

    /// <summary>Refuses to free as guest data what holds metadata.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Corrupt"/>.</exception>
    public void CheckGivenUp(long cluster, int count)
    {
        if (_clusters.TryFind(cluster, cluster + count, out Interval found))
            throw Corrupt($"cluster {Math.Max(found.Start, cluster)} holds {Name(found)} and was freed as guest data");
    }

    private bool TryFind(HostOffset host, long length, out Interval found)
    {
        long first = host.Value >> geometry.ClusterBits;
        long last = (host.Value + length - 1) >> geometry.ClusterBits;
        return _clusters.TryFind(first, last + 1, out found);
    }

    private void AddOne(HostOffset start, long bytes, MetadataKind kind)
    {
        long first = start.Value >> geometry.ClusterBits;
        long end = geometry.RoundUpToCluster(start.Value + bytes) >> geometry.ClusterBits;
        if (!_clusters.TryFind(first, end, out Interval found))
        {
            _clusters.Add(first, end, (byte)kind);
            return;
        }

        bool shared = IsL2(kind) && IsL2((MetadataKind)found.Tag);
        if (!shared)
            throw Corrupt($"{Name(new Interval(first, end, (byte)kind))} at host offset {start.Value} overlaps "
                + $"{Name(found)}");
    }

    private static bool IsL2(MetadataKind kind) => kind is MetadataKind.L2Table or MetadataKind.InactiveL2Table;

    private static string Name(Interval found) => (MetadataKind)found.Tag switch
    {
        MetadataKind.Header => "the header",
        MetadataKind.L1Table => "the L1 table",
        MetadataKind.L2Table => "an L2 table",
        MetadataKind.RefcountTable => "the refcount table",
        MetadataKind.RefcountBlock => "a refcount block",
        MetadataKind.SnapshotTable => "the snapshot table",
        MetadataKind.InactiveL1Table => "the L1 table of a snapshot",
        MetadataKind.InactiveL2Table => "an L2 table of a snapshot",
        MetadataKind.BitmapDirectory => "the bitmap directory",
        MetadataKind.EncryptionHeader => "the encryption header",
        _ => throw new ArgumentOutOfRangeException(nameof(found), found.Tag, "Unknown kind of metadata."),
    };

    private BlockException Corrupt(string reason) => new(BlockErrorKind.Corrupt, $"{name}: {reason}");
}
