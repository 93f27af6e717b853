// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Capabilities;

/// <summary>An open image in whose file there can be clusters that no table refers to.</summary>
public interface IUnreferenced
{
    /// <summary>
    /// The host clusters without a reference as a read-only device of the length of the image file: each at its host
    /// offset, and zeroes in place of all others. The caller disposes it before the image.
    /// </summary>
    /// <exception cref="BlockException">There are too many to keep them all in mind, or the storage fails.</exception>
    BlockDevice OpenUnreferenced();
}
