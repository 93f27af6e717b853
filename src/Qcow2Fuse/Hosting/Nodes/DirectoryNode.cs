// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>
/// A name in a directory. It does not keep the node: a listing may be open for as long as somebody likes, and what it
/// shows may go meanwhile.
/// </summary>
/// <param name="Name">The name.</param>
/// <param name="Number">The number of the node.</param>
/// <param name="Kind">S_IFDIR or S_IFREG.</param>
internal readonly record struct DirectoryEntry(string Name, ulong Number, uint Kind)
{
    /// <summary>What a directory says whose entries have no number yet.</summary>
    public const ulong UnknownNumber = 0xffff_ffff;

    /// <summary>An entry and its string without the characters, in bytes.</summary>
    private const int BaseBytes = 48;

    /// <summary>An entry for a node; null for a directory that gets its node when somebody looks for it.</summary>
    public DirectoryEntry(string name, TreeNode? node)
        : this(name, node?.Number ?? UnknownNumber, node?.Kind ?? FuseAttributes.Directory)
    {
    }

    /// <summary>What it takes in memory.</summary>
    public long Bytes => BaseBytes + ((long)sizeof(char) * Name.Length);
}

/// <summary>Gets the entries of a directory one by one; false ends the listing before the next.</summary>
/// <param name="name">The name.</param>
/// <param name="node">Number of the node.</param>
/// <param name="kind">S_IFDIR or S_IFREG.</param>
/// <param name="next">The position behind it.</param>
internal delegate bool DirectoryVisitor(string name, ulong node, uint kind, long next);

/// <summary>A directory, whose entries may change.</summary>
/// <param name="context">What all nodes share.</param>
internal abstract class DirectoryNode(TreeContext context) : TreeNode
{
    private readonly Lock _listLock = new();
    private WeakReference<DirectoryListing>? _listing;
    private long _begun;
    private long _listed;

    /// <inheritdoc/>
    public override uint Kind => FuseAttributes.Directory;

    protected TreeContext Context => context;

    /// <summary>The node of a name, listed or not; null where there is none.</summary>
    public abstract TreeNode? Find(string name);

    /// <summary>The entries as they are now; the same as before where nothing has changed.</summary>
    public DirectoryListing Listing()
    {
        long came = Interlocked.Read(ref _begun);
        lock (_listLock)
        {
            // Where many come at once, one listing that was begun since then is for all of them.
            DirectoryListing? last = null;
            bool isKnown = _listing?.TryGetTarget(out last) == true;
            if (isKnown && _listed > came)
                return last!;
            long number = Interlocked.Increment(ref _begun);
            List<DirectoryEntry> entries = [new(".", this), new("..", this)];
            if (!ListFrom(0, static (_, _, _, _) => false))
                List(entries);
            if (!isKnown || !CollectionsMarshal.AsSpan(entries).SequenceEqual(last!.Entries))
            {
                last = new DirectoryListing([.. entries]);
                _listing = new WeakReference<DirectoryListing>(last);
            }

            _listed = number;
            return last!;
        }
    }

    /// <summary>Adds the entries that are listed at once: none, the default, where <see cref="ListFrom"/> has them.
    /// </summary>
    public virtual void List(List<DirectoryEntry> entries)
    {
    }

    /// <summary>
    /// Lists from a position on, 0 for the first entry, as things are now; for directories that may be too large to be
    /// listed at once. False, the default, for all others.
    /// </summary>
    public virtual bool ListFrom(long position, DirectoryVisitor visit) => false;

    /// <summary>
    /// Adds entries whose nodes are made by that, for a mount that goes on: all, or as many as may have a node.
    /// </summary>
    public virtual void Recall(List<DirectoryEntry> entries) => List(entries);

    /// <summary>Takes the directory and all below it out of the node table.</summary>
    public virtual void Remove() => context.Nodes.Remove(this);

    /// <inheritdoc/>
    public override FuseAttributes Attributes() =>
        context.Attributes(this, context.Ownership.DirectoryMode, links: 2) with
        {
            Accessed = context.Started,
            Modified = context.Started,
            Changed = context.Started,
        };
}

/// <summary>A directory with the same entries for as long as it exists, some of which may be hidden.</summary>
internal sealed class FixedDirectory(TreeContext context) : DirectoryNode(context)
{
    private readonly List<(string Name, TreeNode Node, Func<bool>? IsThere)> _entries = [];

    /// <summary>Adds an entry; only before the directory is reachable.</summary>
    /// <param name="name">The name.</param>
    /// <param name="node">What it stands for.</param>
    /// <param name="isThere">Whether it can be seen now; null for always.</param>
    public void Add(string name, TreeNode node, Func<bool>? isThere = null) =>
        _entries.Add((name, node, isThere));

    /// <inheritdoc/>
    public override TreeNode? Find(string name)
    {
        (_, TreeNode? node, Func<bool>? isThere) =
            _entries.Find(one => string.Equals(one.Name, name, StringComparison.Ordinal));
        return isThere is null || isThere() ? node : null;
    }

    /// <inheritdoc/>
    public override void List(List<DirectoryEntry> entries)
    {
        foreach ((string name, TreeNode node, Func<bool>? isThere) in _entries)
        {
            if (isThere is null || isThere())
                entries.Add(new DirectoryEntry(name, node));
        }
    }

    /// <inheritdoc/>
    public override void Remove()
    {
        foreach ((_, TreeNode node, _) in _entries)
        {
            if (node is DirectoryNode directory)
                directory.Remove();
            else if (node is RawFileNode file)
                file.Retire();
            else
                Context.Nodes.Remove(node);
        }

        base.Remove();
    }
}
