// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse;

namespace Qcow2Fuse.Hosting;

/// <summary>A name in a directory.</summary>
/// <param name="Name">The name.</param>
/// <param name="Node">What it stands for.</param>
internal readonly record struct DirectoryEntry(string Name, TreeNode Node);

/// <summary>A directory, whose entries may change.</summary>
/// <param name="context">What all nodes share.</param>
internal abstract class DirectoryNode(TreeContext context) : TreeNode
{
    /// <inheritdoc/>
    public override uint Kind => FuseAttributes.Directory;

    protected TreeContext Context => context;

    /// <summary>The node of a name, listed or not; null where there is none.</summary>
    public abstract TreeNode? Find(string name);

    /// <summary>Adds the entries that are listed.</summary>
    public abstract void List(List<DirectoryEntry> entries);

    /// <inheritdoc/>
    public override FuseAttributes Attributes() =>
        context.Attributes(this, context.Ownership.DirectoryMode, links: 2) with
        {
            Accessed = context.Started,
            Modified = context.Started,
            Changed = context.Started,
        };
}

/// <summary>A directory with the same entries for as long as it exists.</summary>
internal sealed class FixedDirectory(TreeContext context) : DirectoryNode(context)
{
    private readonly List<DirectoryEntry> _entries = [];

    /// <summary>Adds an entry; only before the directory is reachable.</summary>
    public void Add(string name, TreeNode node) => _entries.Add(new DirectoryEntry(name, node));

    /// <inheritdoc/>
    public override TreeNode? Find(string name) =>
        _entries.Find(entry => string.Equals(entry.Name, name, StringComparison.Ordinal)).Node;

    /// <inheritdoc/>
    public override void List(List<DirectoryEntry> entries) => entries.AddRange(_entries);

    /// <summary>Takes the directory and all below it out of the node table.</summary>
    public void Remove()
    {
        foreach (DirectoryEntry entry in _entries)
        {
            if (entry.Node is FixedDirectory directory)
                directory.Remove();
            else if (entry.Node is DisksDirectory disks)
                disks.Remove();
            else
                Context.Nodes.Remove(entry.Node);
        }

        Context.Nodes.Remove(this);
    }
}
