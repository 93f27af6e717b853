// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Device;

/// <summary>Reads that several rooms need in the same form.</summary>
public static class BlockDeviceExtensions
{
    /// <summary>
    /// Reads like <see cref="BlockDevice.Read"/>, but what lies beyond the end of the device reads as zeroes: a
    /// backing file shorter than its overlay, or the cut tail of the last cluster of an image file.
    /// </summary>
    public static void ReadPadded(this BlockDevice device, long offset, Span<byte> destination)
    {
        long inside = Math.Clamp(device.Length - offset, 0, destination.Length);
        if (inside > 0)
            device.Read(offset, destination[..(int)inside]);
        destination[(int)inside..].Clear();
    }
}
