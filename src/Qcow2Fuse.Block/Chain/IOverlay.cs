// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Block.Chain;

/// <summary>A device that answers from another one where it stores nothing itself.</summary>
public interface IOverlay
{
    /// <summary>The device below, or null: then what is not stored reads as zeroes.</summary>
    BlockDevice? Backing { get; }
}
