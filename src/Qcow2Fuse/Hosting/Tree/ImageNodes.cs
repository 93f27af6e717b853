// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Partitions;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>The files of one image: its disk, its partitions, and the hidden directory with its details.</summary>
internal sealed class ImageNodes : IDetailsOwner
{
    private readonly TreeContext _context;
    private readonly bool _showsPartitions;
    private readonly Lock _lock = new();
    private volatile string _name;
    private List<(Partition Partition, RawFileNode Node)>? _partitions;
    private PartitionTable _table = PartitionTable.Empty;
    private FixedDirectory? _details;
    private bool _isRetired;

    /// <summary>Adds the file of the disk to the node table.</summary>
    /// <param name="context">What all nodes share.</param>
    /// <param name="image">The image.</param>
    /// <param name="rawName">Name of the file of the disk; ends in <c>.raw</c>.</param>
    /// <param name="window">What is shown of the disk; partitions are shown for a whole one only.</param>
    public ImageNodes(TreeContext context, HostedImage image, string rawName, DiskWindow window)
    {
        _context = context;
        Image = image;
        _name = rawName[..^RawFileName.Ending.Length];
        _showsPartitions = context.Settings.Partitions && window == DiskWindow.Whole;
        Raw = context.Nodes.Add(new RawFileNode(context, image, window, isPartition: false), "raw");
        image.AddView(Raw.Pages);
    }

    public HostedImage Image { get; }

    /// <summary>The image file's name in its directory.</summary>
    public string FileName => Path.GetFileName(Image.Path);

    /// <summary><c>disk</c> for an image <c>disk.qcow2</c>.</summary>
    public string Name => _name;

    /// <summary><c>disk.raw</c>.</summary>
    public string RawName => Name + RawFileName.Ending;

    /// <summary>The disk.</summary>
    public RawFileNode Raw { get; }

    /// <summary>The hidden directory with what is known of the image.</summary>
    public FixedDirectory Details
    {
        get
        {
            FixedDirectory? created;
            lock (_lock)
            {
                if (_details is not null)
                    return _details;
                created = ImageDetails.Create(_context, Image);
                if (_isRetired)
                    created.Remove();
                else
                    _details = created;
            }

            _context.AddDetails(this);
            return created;
        }
    }

    /// <summary>The hidden directory where it has nodes; else null.</summary>
    public FixedDirectory? KnownDetails => Volatile.Read(ref _details);

    /// <inheritdoc/>
    public void DropDetails()
    {
        lock (_lock)
        {
            _details?.Remove();
            _details = null;
        }
    }

    /// <summary>The file of a name; null where the image has none.</summary>
    public RawFileNode? Find(string name, LookPatience patience)
    {
        if (string.Equals(name, RawName, StringComparison.Ordinal))
            return Raw;

        // Only a name that can be a partition's is worth a look at the table.
        bool fits = _showsPartitions && name.StartsWith(Name + ".p", StringComparison.Ordinal)
            && name.EndsWith(RawFileName.Ending, StringComparison.Ordinal);
        if (!fits)
            return null;
        PartitionTable table = ReadTable(patience);
        lock (_lock)
        {
            Follow(table);
            return _partitions?.Find(one => string.Equals(PartitionName(one.Partition), name, StringComparison.Ordinal))
                .Node;
        }
    }

    /// <summary>Adds the files that are listed.</summary>
    public void List(List<DirectoryEntry> entries, LookPatience patience)
    {
        entries.Add(new DirectoryEntry(RawName, Raw));
        if (!_showsPartitions)
            return;
        PartitionTable table = ReadTable(patience);
        lock (_lock)
        {
            Follow(table);
            foreach ((Partition partition, RawFileNode node) in _partitions ?? [])
                entries.Add(new DirectoryEntry(PartitionName(partition), node));
        }
    }

    /// <summary>
    /// Calls the files otherwise, because another image has come or gone. Whoever has one open keeps it.
    /// </summary>
    public void Rename(string rawName) => _name = rawName[..^RawFileName.Ending.Length];

    /// <summary>The image's file has gone: its names go, and its nodes when their last user has.</summary>
    public void Retire()
    {
        lock (_lock)
        {
            _isRetired = true;
            foreach ((_, RawFileNode node) in _partitions ?? [])
                node.Retire();
            _partitions = null;
            _details?.Remove();
            _details = null;
        }

        Raw.Retire();
    }

    private string PartitionName(Partition partition) =>
        string.Create(CultureInfo.InvariantCulture, $"{Name}.p{partition.Number}{RawFileName.Ending}");

    /// <summary>
    /// Follows the partition table. A partition that has not moved keeps its node; whoever has one open that is no
    /// more goes on with the range it had, as with a block device.
    /// </summary>
    private void Follow(PartitionTable table)
    {
        if (ReferenceEquals(table, _table) || _isRetired)
            return;
        _table = table;
        _partitions ??= [];
        for (int i = _partitions.Count - 1; i >= 0; i--)
        {
            if (table.Partitions.Contains(_partitions[i].Partition))
                continue;
            _partitions[i].Node.Retire();
            _partitions.RemoveAt(i);
        }

        foreach (Partition partition in table.Partitions)
        {
            if (_partitions.Exists(one => one.Partition == partition))
                continue;
            RawFileNode node = _context.Nodes.Add(new RawFileNode(
                _context, Image, new DiskWindow(partition.Start, partition.Length), isPartition: true),
                string.Create(CultureInfo.InvariantCulture, $"partition {partition.Start}+{partition.Length}"));
            Image.AddView(node.Pages);
            _partitions.Add((partition, node));
        }

        _partitions.Sort(static (a, b) => a.Partition.Number.CompareTo(b.Partition.Number));
    }

    private PartitionTable ReadTable(LookPatience patience)
    {
        try
        {
            return Image.ReadTable(patience);
        }
        catch (BlockException exception)
        {
            HostLog.NoPartitions(_context.Logger, exception.Message);
            return PartitionTable.Empty;
        }
    }
}
