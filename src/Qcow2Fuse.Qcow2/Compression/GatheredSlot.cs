// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Compression;

/// <summary>What becomes of a slot now.</summary>
internal enum SlotState
{
    /// <summary>It holds no cluster.</summary>
    Free,

    /// <summary>It takes more writes.</summary>
    Open,

    /// <summary>Its cluster is being stored or zeroed; readers still see it and writers to it wait.</summary>
    Busy,
}

/// <summary>
/// A cluster under way. All members are used with the lock of <see cref="GatheredSlots"/> held, the content also while
/// it is busy.
/// </summary>
internal sealed unsafe class GatheredSlot(byte* bytes, int clusterSize)
{
    public SlotState State { get; set; }

    /// <summary>Guest offset of the cluster.</summary>
    public long Guest { get; set; }

    /// <summary>What tells one use of the slot from the next.</summary>
    public long Generation { get; set; }

    public long LastUse { get; set; }

    /// <summary>The claim it is busy for; null where it is not, or is busy for a thread that stores it.</summary>
    public SlotClaim? Holder { get; set; }

    /// <summary>What the guest has written of it.</summary>
    public ByteRanges Written { get; } = new();

    public Span<byte> Content => new(bytes, clusterSize);
}

/// <summary>A range that is being zeroed or discarded.</summary>
internal sealed class SlotClaim(long start, long end)
{
    public long Start => start;

    public long End => end;
}
