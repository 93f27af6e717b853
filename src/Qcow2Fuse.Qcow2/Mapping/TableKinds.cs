// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// Remembers of L2 tables all of whose clusters are of one kind which kind that is, so that a walk over the disk looks
/// into each table once, however many L1 entries name it. A memory of fixed size: a table has one place, and the newer
/// of two that share it stays.
/// </summary>
/// <remarks>All methods are called with the image's gate held.</remarks>
internal sealed class TableKinds
{
    private const int PlaceBits = 14;
    private const ulong KindMask = 7;
    private const ulong Multiplier = 0x9e37_79b9_7f4a_7c15;

    private ulong[]? _entries;
    private long _changes = -1;

    /// <summary>The kind of a table; null for one of several kinds, or one that nothing is known of.</summary>
    /// <param name="table">Its host offset, aligned to 512 at least.</param>
    /// <param name="changes"><see cref="TableCache.Changes"/> now.</param>
    public RunKind? Find(long table, long changes)
    {
        if (_entries is null || changes != _changes)
            return null;
        ulong entry = _entries[PlaceOf(table)];
        return (entry & ~KindMask) == (ulong)table && (entry & KindMask) != 0
            ? (RunKind)((entry & KindMask) - 1) : null;
    }

    /// <summary>Remembers the kind of a table, learned while <paramref name="changes"/> did not move.</summary>
    public void Set(long table, RunKind kind, long changes)
    {
        _entries ??= new ulong[1 << PlaceBits];
        if (changes != _changes)
        {
            Array.Clear(_entries);
            _changes = changes;
        }

        _entries[PlaceOf(table)] = (ulong)table | ((ulong)kind + 1);
    }

    private static int PlaceOf(long table) => (int)(((ulong)table * Multiplier) >> (64 - PlaceBits));
}
