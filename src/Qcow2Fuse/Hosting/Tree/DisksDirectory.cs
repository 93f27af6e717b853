// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>A read-only disk inside an image.</summary>
/// <param name="Name">The name of its file without <c>.raw</c>.</param>
/// <param name="Identity">What tells it from others that had or will have the name.</param>
/// <param name="Length">Its size in bytes.</param>
/// <param name="AllocatedBytes">Bytes it occupies, at most.</param>
/// <param name="Open">Makes the disk of the open image.</param>
internal sealed record InnerDisk(
    string Name, string Identity, long Length, long AllocatedBytes, Func<BlockDevice, BlockDevice> Open);

/// <summary>A directory of read-only disks inside an image, which is opened to list them.</summary>
internal abstract class DisksDirectory(TreeContext context, HostedImage image) : DirectoryNode(context)
{
    private const string Ending = ".raw";

    private readonly Lock _lock = new();
    private readonly List<(InnerDisk Disk, RawFileNode Node)> _disks = [];

    /// <inheritdoc/>
    public override bool MayTakeLong => image.Current is null;

    /// <inheritdoc/>
    public override TreeNode? Find(string name)
    {
        lock (_lock)
        {
            Refresh();
            return _disks.Find(one => string.Equals(one.Disk.Name + Ending, name, StringComparison.Ordinal)).Node;
        }
    }

    /// <inheritdoc/>
    public override void List(List<DirectoryEntry> entries)
    {
        lock (_lock)
        {
            Refresh();
            foreach ((InnerDisk disk, RawFileNode node) in _disks)
                entries.Add(new DirectoryEntry(disk.Name + Ending, node));
        }
    }

    /// <inheritdoc/>
    public override void Remove()
    {
        lock (_lock)
        {
            foreach ((_, RawFileNode node) in _disks)
                node.Retire();
            _disks.Clear();
        }

        base.Remove();
    }

    /// <summary>A word for what the disks are.</summary>
    protected abstract string What { get; }

    /// <summary>The disks of the open image.</summary>
    protected abstract List<InnerDisk> DisksOf(BlockDevice top);

    /// <summary>Follows the image: who is still there keeps its node.</summary>
    private void Refresh()
    {
        List<InnerDisk> disks;
        BlockDevice device = image.Acquire();
        try
        {
            disks = DisksOf(device);
        }
        finally
        {
            image.Release();
        }

        for (int i = _disks.Count - 1; i >= 0; i--)
        {
            InnerDisk known = _disks[i].Disk;
            if (disks.RemoveAll(disk => string.Equals(disk.Identity, known.Identity, StringComparison.Ordinal)) > 0)
                continue;
            _disks[i].Node.Retire();
            _disks.RemoveAt(i);
        }

        foreach (InnerDisk disk in disks)
        {
            DerivedSource source = new(image, disk.Length, disk.AllocatedBytes, disk.Open);
            RawFileNode node = new(Context, image, source);
            _disks.Add((disk, Context.Nodes.Add(node, $"{What} {disk.Identity}")));
        }
    }
}

/// <summary><c>layers</c>: each image of the chain alone, <c>0.raw</c> the top one.</summary>
internal sealed class LayersDirectory(TreeContext context, HostedImage image) : DisksDirectory(context, image)
{
    /// <inheritdoc/>
    protected override string What => "layer";

    /// <inheritdoc/>
    protected override List<InnerDisk> DisksOf(BlockDevice top)
    {
        List<InnerDisk> disks = [];
        for (BlockDevice? layer = top; layer is not null; layer = BackingChain.Below(layer))
        {
            int depth = disks.Count;
            string name = depth.ToString(CultureInfo.InvariantCulture);
            disks.Add(new InnerDisk(
                name, $"{name} {layer.Length} {layer.Name}", layer.Length, layer.AllocatedBytes,
                now => new LayerDevice(LayerAt(now, depth))));
        }

        return disks;
    }

    private static BlockDevice LayerAt(BlockDevice top, int depth)
    {
        BlockDevice layer = top;
        for (int i = 0; i < depth; i++)
        {
            layer = BackingChain.Below(layer)
                ?? throw new BlockException(BlockErrorKind.NotFound, $"{top.Name}: has only {i + 1} layers");
        }

        return layer;
    }
}
