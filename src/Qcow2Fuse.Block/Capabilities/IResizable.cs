// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Capabilities;

/// <summary>An open image whose new space can be stored in more than one way when it grows.</summary>
public interface IResizable
{
    /// <summary>Changes the size of the disk.</summary>
    /// <param name="length">The new size in bytes, a multiple of 512.</param>
    /// <param name="preallocation">What is done for the storage of new space; ignored when shrinking.</param>
    /// <exception cref="BlockException">The size cannot be had, or the storage fails.</exception>
    void Resize(long length, Preallocation preallocation);
}
