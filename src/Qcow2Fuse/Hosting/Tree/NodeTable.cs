// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using System.Diagnostics.CodeAnalysis;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// The nodes of a mount by number. Numbers are given once and never again, so that a late request for a node that has
/// gone cannot reach another.
/// </summary>
internal sealed class NodeTable
{
    private readonly ConcurrentDictionary<ulong, TreeNode> _nodes = new();
    private ulong _last;

    /// <summary>Nodes there are.</summary>
    public int Count => _nodes.Count;

    /// <summary>Adds a node and gives it the next number; the first is the root, 1.</summary>
    public T Add<T>(T node)
        where T : TreeNode
    {
        node.Number = Interlocked.Increment(ref _last);
        _nodes[node.Number] = node;
        return node;
    }

    /// <summary>Takes a node away.</summary>
    public void Remove(TreeNode node) => _nodes.TryRemove(node.Number, out _);

    /// <summary>The node of a number. Allocates nothing.</summary>
    public bool TryGet(ulong number, [NotNullWhen(true)] out TreeNode? node) => _nodes.TryGetValue(number, out node);
}
