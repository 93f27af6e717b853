// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Capabilities;

/// <summary>What is done for the storage of new space; QEMU's <c>preallocation</c>.</summary>
public enum Preallocation
{
    /// <summary>Nothing: clusters are allocated when they are written.</summary>
    Off,

    /// <summary>Clusters are allocated and mapped; the host stores nothing for them yet.</summary>
    Metadata,

    /// <summary>Clusters are allocated and mapped, and the host reserves their space.</summary>
    Falloc,

    /// <summary>Clusters are allocated, mapped and filled with zeroes.</summary>
    Full,
}
