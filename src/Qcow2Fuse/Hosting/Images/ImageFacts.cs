// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting.Images;

/// <summary>What a file of an image shows while the image is closed. There may be very many.</summary>
/// <param name="VirtualSize">Size of the disk in bytes.</param>
/// <param name="ActualSize">Bytes the image file occupies.</param>
/// <param name="ClusterSize">Bytes of a cluster; 0 for a format without any.</param>
/// <param name="FileLength">Length of the image file in bytes.</param>
/// <param name="IsImage">Whether the header could be read.</param>
internal readonly record struct ImageFacts(
    long VirtualSize, long ActualSize, int ClusterSize, long FileLength, bool IsImage);
