// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Diagnostics.CodeAnalysis;
using System.Security.Cryptography;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>
/// The nodes of a mount by number. Numbers are given once and never again, so that a late request for a node that has
/// gone cannot reach another.
/// </summary>
internal sealed class NodeTable
{
    private readonly ConcurrentDictionary<ulong, TreeNode> _nodes = new();
    private ulong _last;

    /// <summary>The numbers of all nodes.</summary>
    public ICollection<ulong> Numbers => _nodes.Keys;

    /// <summary>Nodes there are.</summary>
    public int Count => _nodes.Count;

    /// <summary>
    /// Whether all nodes but the root get their numbers from what they stand for, so that the next process, which may
    /// be another version of the program and make them in another order, gives them the same.
    /// </summary>
    public bool HasLastingNumbers { get; set; }

    /// <summary>Adds a node and gives it a number; the first is the root, 1.</summary>
    /// <param name="node">The node.</param>
    /// <param name="identity">What it stands for: no two nodes that ever exist have the same, unless one shows exactly
    /// what the other has shown. It stays as it is from version to version.</param>
    public T Add<T>(T node, string? identity = null)
        where T : TreeNode
    {
        if (HasLastingNumbers && identity is not null && !_nodes.IsEmpty)
        {
            node.Number = LastingNumber(identity);
            if (_nodes.TryAdd(node.Number, node))
                return node;
        }

        node.Number = Interlocked.Increment(ref _last);
        _nodes[node.Number] = node;
        return node;
    }

    /// <summary>62 bits of a hash above all numbers that are counted.</summary>
    private static ulong LastingNumber(string identity)
    {
        byte[] hash = SHA256.HashData(ByteText.Encode(identity));
        return (BinaryPrimitives.ReadUInt64LittleEndian(hash) >> 2) | 1UL << 62;
    }

    /// <summary>Takes a node away.</summary>
    public void Remove(TreeNode node) => _nodes.TryRemove(node.Number, out _);

    /// <summary>The node of a number. Allocates nothing.</summary>
    public bool TryGet(ulong number, [NotNullWhen(true)] out TreeNode? node) => _nodes.TryGetValue(number, out node);
}
