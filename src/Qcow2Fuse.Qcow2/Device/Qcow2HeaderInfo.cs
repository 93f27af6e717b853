// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>What the header alone says of an image: read with a few requests, whatever else the image holds.</summary>
/// <param name="VirtualSize">Size of the disk in bytes.</param>
/// <param name="ClusterSize">Bytes of a cluster.</param>
/// <param name="BackingFile">The backing file as the header names it, or null.</param>
public readonly record struct Qcow2HeaderInfo(long VirtualSize, int ClusterSize, string? BackingFile)
{
    /// <summary>Reads it from the image file.</summary>
    /// <exception cref="BlockException">The header is invalid.</exception>
    public static Qcow2HeaderInfo Read(BlockDevice file)
    {
        Qcow2Header header = Qcow2HeaderReader.Read(file);
        return new Qcow2HeaderInfo(header.Size & ~511L, 1 << header.ClusterBits, header.BackingFile);
    }
}
