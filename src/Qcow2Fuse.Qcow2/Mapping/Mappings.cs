// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Where the bytes of a guest range come from.</summary>
internal enum MappingKind
{
    /// <summary>From the data file at a host offset.</summary>
    Data,

    /// <summary>They are zeroes.</summary>
    Zero,

    /// <summary>From the backing file, or zeroes.</summary>
    Unallocated,

    /// <summary>From a compressed cluster.</summary>
    Compressed,
}

/// <summary>The answer of a lookup.</summary>
/// <param name="Kind">What the range is.</param>
/// <param name="Length">Guest bytes it holds for, at least 1.</param>
/// <param name="Host">For <see cref="MappingKind.Data"/>: where the first byte lies.</param>
/// <param name="Descriptor">For <see cref="MappingKind.Compressed"/>: the L2 descriptor.</param>
internal readonly record struct ReadMapping(MappingKind Kind, long Length, HostOffset Host, ulong Descriptor);

/// <summary>What a write has to do.</summary>
/// <param name="Length">Guest bytes it covers, at least 1.</param>
/// <param name="Host">Where the first byte goes.</param>
/// <param name="Allocation">The allocation to link after the data is written, or null for a write in place.</param>
/// <param name="Epoch">For a write in place: the epoch to leave after the I/O. An allocation carries its own.</param>
internal readonly record struct WriteMapping(int Length, HostOffset Host, ClusterAllocation? Allocation, long Epoch);

/// <summary>
/// Host clusters that are being written and not linked yet. All offsets are guest bytes; request and copy-on-write
/// range lie in the clusters.
/// </summary>
internal sealed class ClusterAllocation
{
    /// <summary>First cluster.</summary>
    public GuestOffset Start { get; set; }

    /// <summary>Number of clusters, all mapped by one L2 slice and adjacent on the host.</summary>
    public int Clusters { get; set; }

    /// <summary>End of the last cluster.</summary>
    public GuestOffset End { get; set; }

    /// <summary>Host offset of the first cluster.</summary>
    public HostOffset Host { get; set; }

    /// <summary>The host clusters are those already mapped: only their state changes, nothing is freed.</summary>
    public bool InPlace { get; set; }

    /// <summary>The host clusters were never used and read as zeroes.</summary>
    public bool IsVirgin { get; set; }

    /// <summary>What the one cluster becomes if it is compressed, 0 where nothing is or it is not packed yet.</summary>
    public ulong Descriptor { get; set; }

    /// <summary>What the guest writes.</summary>
    public GuestOffset RequestStart { get; set; }
    public GuestOffset RequestEnd { get; set; }

    /// <summary>What becomes allocated: the request with head and tail copied around it.</summary>
    public GuestOffset CowStart { get; set; }
    public GuestOffset CowEnd { get; set; }

    /// <summary>The epoch it entered.</summary>
    public long Epoch { get; set; }

    /// <summary>Where a guest byte of it goes.</summary>
    public HostOffset HostOf(GuestOffset guest) => Host + (guest - Start);
}
