// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Chain;

/// <summary>A device that answers from another one where it stores nothing itself.</summary>
public interface IOverlay
{
    /// <summary>The device below, or null: then what is not stored reads as zeroes.</summary>
    BlockDevice? Backing { get; }
}

/// <summary>An overlay below which another device can be put.</summary>
public interface IRebasable : IOverlay
{
    /// <summary>
    /// Puts another device below. No request to the overlay is under way (<c>LiveDevice.Exchange</c> sees to that), and
    /// none that it has handed to the device below.
    /// </summary>
    /// <param name="backing">What is to be below, or null; the overlay's from now on.</param>
    /// <returns>What was below, which is the caller's now; or null.</returns>
    /// <exception cref="BlockException">It is used by something else too, or cannot be left now. Nothing has
    /// changed.</exception>
    BlockDevice? ChangeBacking(BlockDevice? backing);
}
