// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Device;

/// <summary>What requests a <see cref="BlockDevice"/> takes and how it behaves at its end.</summary>
/// <param name="RequestAlignment">Offsets and lengths that are multiples of this avoid a read-modify-write; a power of
/// two, 1 where any request is as good as another.</param>
/// <param name="GrowsOnWrite">A write past the end enlarges the device; the gap and everything that was never written
/// there reads as zeroes.</param>
public readonly record struct BlockLimits(int RequestAlignment, bool GrowsOnWrite)
{
    /// <summary>Any request, fixed size.</summary>
    public static BlockLimits None => new(1, GrowsOnWrite: false);
}
