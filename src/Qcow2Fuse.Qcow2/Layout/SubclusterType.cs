// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>
/// What a subcluster is; without extended L2 entries a cluster has exactly one.
/// </summary>
/// <remarks>
/// <code>
///                        host offset   allocated bit   zero bit/flag
/// UnallocatedPlain            0              0              0
/// UnallocatedAllocated      set              0              0        extended L2 only
/// ZeroPlain                   0              0              1        not in version 2
/// ZeroAllocated             set              0              1        not in version 2
/// Normal                    set              1 (or standard) 0
/// Compressed                bit 62 of the descriptor; the bitmap is 0
/// Invalid                   both bits of any subcluster, an allocated bit without a host offset,
///                           or a zero flag in version 2
/// </code>
/// </remarks>
public enum SubclusterType
{
    /// <summary>Neither data nor a host cluster: the backing file answers.</summary>
    UnallocatedPlain,

    /// <summary>A host cluster is there, but not for this subcluster: the backing file answers.</summary>
    UnallocatedAllocated,

    /// <summary>Reads as zeroes, no host cluster.</summary>
    ZeroPlain,

    /// <summary>Reads as zeroes, a host cluster is reserved.</summary>
    ZeroAllocated,

    /// <summary>Data in the host cluster.</summary>
    Normal,

    /// <summary>The whole cluster is compressed.</summary>
    Compressed,

    /// <summary>The entry contradicts itself.</summary>
    Invalid,
}
