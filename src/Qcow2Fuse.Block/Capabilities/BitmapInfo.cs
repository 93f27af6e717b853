// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Capabilities;

/// <summary>A persistent bitmap as users see it.</summary>
/// <param name="Name">Unique in its image.</param>
/// <param name="Granularity">Bytes of the disk that one bit stands for, a power of two.</param>
/// <param name="IsEnabled">It records what is written ("auto").</param>
/// <param name="IsInUse">
/// Of an image file: it was not stored after it had been in use. Of an open image: that is so since before it was
/// opened, and what it holds must not be believed.
/// </param>
public sealed record BitmapInfo(string Name, long Granularity, bool IsEnabled, bool IsInUse);
