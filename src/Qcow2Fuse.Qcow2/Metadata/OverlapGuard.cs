// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Block.Ranges;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

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
internal sealed class OverlapGuard : IDisposable
{
    private const string ReservedFor = "the list of its tables";

    private readonly string _name;
    private readonly Qcow2Geometry _geometry;
    private readonly IntervalSet _clusters = new();
    private readonly MemoryCharge _charge;
    private readonly Func<Interval, Interval, bool> _mayShare;

    /// <param name="name">The image.</param>
    /// <param name="geometry">Its geometry.</param>
    /// <param name="memory">Where memory for it is taken from.</param>
    public OverlapGuard(string name, Qcow2Geometry geometry, MemoryBudget memory)
    {
        _name = name;
        _geometry = geometry;
        _charge = memory.Take(0, name, ReservedFor);
        _mayShare = CheckShared;
    }

    /// <summary>
    /// Takes memory for so many tables, so that neither <see cref="EndBuilding"/> nor a later write asks for any.
    /// </summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NoMemory"/>; what was reserved stays.</exception>
    public void Reserve(long tables)
    {
        long bytes = tables * IntervalSet.BytesPerRun;
        if (bytes > _charge.Taken)
            _charge.Grow(bytes - _charge.Taken, _name, ReservedFor);
    }

    /// <summary>Starts anew with the tables that <see cref="Collect"/> names, at most so many in different clusters.
    /// </summary>
    public void BeginBuilding(long tables)
    {
        _clusters.BeginAppending((int)Math.Min(tables, int.MaxValue));
        OweTheRest();
    }

    /// <summary>Names a table. An L2 table may be named several times, where snapshots share it.</summary>
    /// <exception cref="BlockException">As <see cref="EndBuilding"/>.</exception>
    public void Collect(HostOffset start, long bytes, MetadataKind kind)
    {
        if (bytes <= 0)
            return;
        (long first, long end) = ClustersOf(start, bytes);
        _clusters.Append(first, end, (byte)kind, _mayShare);
        OweTheRest();
    }

    /// <summary>All tables were named.</summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.Corrupt"/> where two tables lie in one cluster.
    /// </exception>
    public void EndBuilding() => _clusters.EndAppending(_mayShare);

    /// <summary>Forgets all tables, where they could not all be named. What is reserved stays.</summary>
    public void Forget() => _clusters.Dispose();

    /// <summary>Says that clusters hold a table from now on.</summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.Corrupt"/> where another table lies there.
    /// </exception>
    public void Add(HostOffset start, long bytes, MetadataKind kind)
    {
        (long first, long end) = ClustersOf(start, bytes);
        Interval table = new(first, end, (byte)kind);
        if (_clusters.TryFind(first, end, out Interval found))
        {
            CheckShared(found, table);
            return;
        }

        _clusters.Add(first, end, (byte)kind);
        OweTheRest();
    }

    /// <summary>Says that clusters, all of whose references are gone, hold no table any more.</summary>
    public void Remove(HostOffset start, int clusters)
    {
        long first = start.Value >> _geometry.ClusterBits;
        _clusters.Remove(first, first + clusters);
        OweTheRest();
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

    /// <summary>Refuses what a table of a snapshot, or of the disk, refers to as guest data and is metadata.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Corrupt"/>.</exception>
    public void CheckData(HostOffset host, long length)
    {
        if (TryFind(host, length, out Interval found))
            throw Corrupt($"an L2 entry maps {Name(found)} at host offset {host.Value}");
    }

    /// <summary>The host offset behind the last metadata there is.</summary>
    public long End => _clusters.Count == 0 ? 0 : _clusters.Runs[^1].End << _geometry.ClusterBits;

    /// <summary>Refuses to free as guest data what holds metadata.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Corrupt"/>.</exception>
    public void CheckGivenUp(long cluster, int count)
    {
        if (_clusters.TryFind(cluster, cluster + count, out Interval found))
            throw Corrupt($"cluster {Math.Max(found.Start, cluster)} holds {Name(found)} and was freed as guest data");
    }

    private bool TryFind(HostOffset host, long length, out Interval found)
    {
        long first = host.Value >> _geometry.ClusterBits;
        long last = (host.Value + length - 1) >> _geometry.ClusterBits;
        return _clusters.TryFind(first, last + 1, out found);
    }

    private (long First, long End) ClustersOf(HostOffset start, long bytes) => (
        start.Value >> _geometry.ClusterBits,
        _geometry.RoundUpToCluster(start.Value + bytes) >> _geometry.ClusterBits);

    private bool CheckShared(Interval first, Interval second) =>
        IsL2((MetadataKind)first.Tag) && IsL2((MetadataKind)second.Tag)
            ? true : throw Overlap(second, first);

    private BlockException Overlap(Interval table, Interval found) => Corrupt(
        $"{Name(table)} at host offset {table.Start << _geometry.ClusterBits} overlaps {Name(found)}");

    /// <summary>What the set has taken beyond what was reserved: the tables that writes have added.</summary>
    private void OweTheRest()
    {
        if (_clusters.Bytes > _charge.Taken)
            _charge.Owe(_clusters.Bytes - _charge.Taken);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _clusters.Dispose();
        _charge.Dispose();
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

    private BlockException Corrupt(string reason) => new(BlockErrorKind.Corrupt, $"{_name}: {reason}");
}
