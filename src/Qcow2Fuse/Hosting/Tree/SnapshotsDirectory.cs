// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;
using Qcow2Fuse.Fuse;
using Qcow2Fuse.Qcow2;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// <c>snapshots</c>: each internal snapshot by its name, or by its id where the name is taken or cannot be a file's.
/// Files that are asked for have a node; those of the others are made when that happens.
/// </summary>
internal sealed class SnapshotsDirectory(TreeContext context, HostedImage image) : DirectoryNode(context)
{
    private const string Ending = ".raw";

    /// <summary>Files with a node at most; the kernel asks again for those whose node has gone.</summary>
    private const int NodesMax = 1024;

    /// <summary>What a directory says whose files have no number yet.</summary>
    private const ulong UnknownNumber = 0xffff_ffff;

    private readonly Lock _lock = new();
    private readonly Dictionary<string, RawFileNode> _nodes = new(StringComparer.Ordinal);
    private readonly Queue<string> _order = new();
    private SnapshotIndex? _index;
    private int _indexOpening;

    /// <inheritdoc/>
    public override bool MayTakeLong => image.Current is null;

    /// <inheritdoc/>
    public override TreeNode? Find(string name)
    {
        if (!name.EndsWith(Ending, StringComparison.Ordinal))
            return null;
        return With((device, index) =>
            index.Find(device, name[..^Ending.Length]) is { } snapshot ? NodeOf(device, snapshot) : null);
    }

    /// <inheritdoc/>
    public override bool ListFrom(long position, DirectoryVisitor visit)
    {
        _ = With<object>((device, index) =>
        {
            index.Visit(device, (int)Math.Min(position, index.Count), (number, name, snapshot) =>
            {
                ulong node = _nodes.TryGetValue(SnapshotIndex.IdentityOf(snapshot), out RawFileNode? known)
                    ? known.Number : UnknownNumber;
                return visit(name + Ending, node, FuseAttributes.RegularFile, number + 1);
            });
            return null;
        });
        return true;
    }

    /// <inheritdoc/>
    public override void List(List<DirectoryEntry> entries) =>
        throw new NotSupportedException("The snapshots are listed bit by bit.");

    /// <inheritdoc/>
    public override void Recall(List<DirectoryEntry> entries) => With<object>((device, index) =>
    {
        List<(string Name, SnapshotInfo Snapshot)> found = [];
        index.Visit(device, 0, (_, name, snapshot) =>
        {
            found.Add((name, snapshot));
            return found.Count < NodesMax;
        });
        foreach ((string name, SnapshotInfo snapshot) in found)
            entries.Add(new DirectoryEntry(name + Ending, NodeOf(device, snapshot)));
        return null;
    });

    /// <inheritdoc/>
    public override void Remove()
    {
        lock (_lock)
        {
            foreach (RawFileNode node in _nodes.Values)
                node.Retire();
            _nodes.Clear();
            _order.Clear();
        }

        base.Remove();
    }

    /// <summary>The qcow2 image below the filters of an open image; null for other formats.</summary>
    public static Qcow2Device? Qcow2Of(BlockDevice device)
    {
        while (device is FilterDevice filter)
            device = filter.Child;
        return device as Qcow2Device;
    }

    /// <summary>Does something with the image while it is open, and with an index of what it holds now.</summary>
    private T? With<T>(Func<Qcow2Device, SnapshotIndex, T?> use)
        where T : class
    {
        BlockDevice top = image.Acquire();
        try
        {
            if (Qcow2Of(top) is not { } device)
                return null;
            lock (_lock)
            {
                // While it was closed others may have changed it, and its versions begin anew.
                int opening = image.Openings;
                if (_index is null || _indexOpening != opening || _index.Version != device.SnapshotVersion)
                {
                    Follow(_index = new SnapshotIndex(device, _nodes.Keys));
                    _indexOpening = opening;
                }

                return use(device, _index);
            }
        }
        finally
        {
            image.Release();
        }
    }

    /// <summary>Who is still there keeps its node.</summary>
    private void Follow(SnapshotIndex index)
    {
        foreach ((string identity, RawFileNode node) in _nodes.Where(known => !index.Has(known.Key)).ToArray())
        {
            node.Retire();
            _nodes.Remove(identity);
        }
    }

    private RawFileNode NodeOf(Qcow2Device device, SnapshotInfo snapshot)
    {
        string identity = SnapshotIndex.IdentityOf(snapshot);
        if (_nodes.TryGetValue(identity, out RawFileNode? known))
            return known;
        while (_nodes.Count >= NodesMax && _order.TryDequeue(out string? oldest))
        {
            if (_nodes.Remove(oldest, out RawFileNode? gone))
                gone.Retire();
        }

        string id = snapshot.Id;
        DerivedSource source = new(
            image, snapshot.DiskSize, Math.Min(snapshot.DiskSize, device.AllocatedBytes), now => Open(now, id));
        RawFileNode node = Context.Nodes.Add(new RawFileNode(Context, image, source), $"snapshot {identity}");
        _nodes.Add(identity, node);
        _order.Enqueue(identity);
        return node;
    }

    private static BlockDevice Open(BlockDevice top, string id) =>
        Qcow2Of(top)?.OpenSnapshot(id)
        ?? throw new BlockException(BlockErrorKind.NotSupported, $"{top.Name}: has no snapshots");
}
