// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>
/// <c>snapshots</c>: each internal snapshot by its name, or by its id where the name is taken or cannot be a file's.
/// Files that are asked for have a node; those of the others are made when that happens.
/// </summary>
internal sealed class SnapshotsDirectory : DirectoryNode
{
    private const string Ending = ".raw";

    /// <summary>Files with a node at most; the kernel asks again for those whose node has gone.</summary>
    private const int NodesMax = 1024;

    /// <summary>Characters of an id that is kept: all of a number's. Longer ones are looked for again.</summary>
    private const int KeptIdChars = 32;

    private readonly HostedImage _image;
    private readonly Lock _lock = new();
    private readonly Dictionary<UInt128, RawFileNode> _nodes = [];
    private Queue<UInt128> _order = new();
    private SnapshotIndex? _index;
    private bool _isRemoved;

    public SnapshotsDirectory(TreeContext context, HostedImage image)
        : base(context)
    {
        _image = image;
        image.Closed += DropIndex;
    }

    /// <inheritdoc/>
    /// <remarks>A table of names is read, and the image opened for it.</remarks>
    public override bool MayTakeLong => true;

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
                ulong node = _nodes.TryGetValue(SnapshotIndex.KeyOf(snapshot), out RawFileNode? known)
                    ? known.Number : DirectoryEntry.UnknownNumber;
                return visit(name + Ending, node, FuseAttributes.RegularFile, number + 1);
            });
            return null;
        });
        return true;
    }

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
            _isRemoved = true;
            _image.Closed -= DropIndex;
            DropIndex();
        }

        base.Remove();
    }

    /// <summary>Does something with the image while it is open, and with an index of what it holds now.</summary>
    private T? With<T>(Func<ISnapshots, SnapshotIndex, T?> use)
        where T : class
    {
        BlockDevice top = _image.Acquire();
        try
        {
            if (FilterDevice.Unwrap(top) is not ISnapshots device)
                return null;
            lock (_lock)
            {
                if (_index is null || _index.Version != device.SnapshotVersion)
                {
                    DropIndex();
                    Follow(_index = new SnapshotIndex(
                        device, _image.Path, Context.Settings.Memory, _nodes.Keys));
                }

                try
                {
                    return use(device, _index);
                }
                finally
                {
                    if (_isRemoved)
                        DropIndex();
                }
            }
        }
        finally
        {
            _image.Release();
        }
    }

    /// <summary>
    /// The image is closed: while it is, others may change it, and its versions begin anew. Nobody can be using the
    /// index then.
    /// </summary>
    private void DropIndex()
    {
        lock (_lock)
        {
            _index?.Dispose();
            _index = null;
        }
    }

    /// <summary>Who is still there keeps its node.</summary>
    private void Follow(SnapshotIndex index)
    {
        foreach ((UInt128 identity, RawFileNode node) in _nodes.Where(known => !index.Has(known.Key)).ToArray())
        {
            node.Retire();
            _nodes.Remove(identity);
        }

        if (_order.Count > _nodes.Count)
            _order = new Queue<UInt128>(_order.Where(_nodes.ContainsKey));
    }

    private RawFileNode NodeOf(ISnapshots device, SnapshotInfo snapshot)
    {
        UInt128 key = SnapshotIndex.KeyOf(snapshot);
        if (_nodes.TryGetValue(key, out RawFileNode? known))
            return known;
        while (_nodes.Count >= NodesMax && _order.TryDequeue(out UInt128 oldest))
        {
            if (_nodes.Remove(oldest, out RawFileNode? gone))
                gone.Retire();
        }

        string? id = snapshot.Id.Length <= KeptIdChars ? snapshot.Id : null;
        DerivedSource source = new(
            _image, snapshot.DiskSize, Math.Min(snapshot.DiskSize, _image.AllocatedBytes), now => Open(now, id, key));
        RawFileNode node = Context.Nodes.Add(
            new RawFileNode(Context, _image, source), $"snapshot {SnapshotIndex.IdentityOf(snapshot)}");
        _nodes.Add(key, node);
        _order.Enqueue(key);
        return node;
    }

    private static BlockDevice Open(BlockDevice top, string? id, UInt128 key)
    {
        ISnapshots device = FilterDevice.Unwrap(top) as ISnapshots
            ?? throw new BlockException(BlockErrorKind.NotSupported, $"{top.Name}: has no snapshots");
        if (id is null)
        {
            device.VisitSnapshots(0, record =>
            {
                if (SnapshotIndex.KeyOf(record.Snapshot) == key)
                    id = record.Snapshot.Id;
                return id is null;
            });
        }

        return device.OpenSnapshot(
            id ?? throw new BlockException(BlockErrorKind.NotFound, $"{top.Name}: a snapshot is not there any more"));
    }
}
