// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Filters;

namespace Qcow2Fuse.Block.Chain;

/// <summary>Questions about a device together with everything below it.</summary>
public static class BackingChain
{
    /// <summary>The device below <paramref name="device"/>, filters looked through; null at the bottom.</summary>
    public static BlockDevice? Below(BlockDevice device)
    {
        while (device is not IOverlay && device is FilterDevice filter)
            device = filter.Child;
        return (device as IOverlay)?.Backing;
    }

    /// <summary>
    /// <paramref name="lower"/>, the backing device of an image, with a map of it and all that is below it, so that a
    /// read goes straight to the layer that answers. The same device where there is nothing to map: it has no backing
    /// device itself, or not all of them are read-only.
    /// </summary>
    /// <returns>The device to read from, which owns <paramref name="lower"/>; null for null.</returns>
    public static BlockDevice? Mapped(BlockDevice? lower) => MappedChain.Over(lower);

    /// <summary>What a map made by <see cref="Mapped"/> is over; any other device itself.</summary>
    public static BlockDevice? WithoutMap(BlockDevice? lower) => lower is MappedChain map ? map.Child : lower;

    /// <summary>Gives up the map that <see cref="Mapped"/> may have made, and leaves what is below it open.</summary>
    public static void DropMap(BlockDevice? lower) => (lower as MappedChain)?.Drop();

    /// <summary>
    /// Like <see cref="BlockDevice.GetExtent"/>, but an unallocated run is looked up in the layers below, and
    /// <see cref="Extent.Depth"/> counts the layers down to the one that answers. What no layer stores is
    /// <see cref="ExtentKind.Unallocated"/> at the depth of the lowest layer that reaches so far; it reads as zeroes.
    /// </summary>
    public static Extent GetExtent(BlockDevice device, long offset, long length)
    {
        for (int depth = 0; ; depth++)
        {
            if (device is MappedChain mapped)
                device = mapped.Answering(offset, ref length, ref depth);
            Extent extent = device.GetExtent(offset, length);
            if (extent.Length < length && extent.Kind is ExtentKind.Zero or ExtentKind.Unallocated)
                extent = Longer(device, extent, length);
            extent = extent with { Depth = extent.Depth + depth };
            if (extent.Kind != ExtentKind.Unallocated || Below(device) is not { } below || offset >= below.Length)
                return extent;

            // A shorter answer is always allowed, and one that stops at the end of the layer below needs no joining.
            length = Math.Min(extent.Length, below.Length - offset);
            device = below;
        }
    }

    /// <summary>The extent with as much of what follows and is of its kind as the device tells.</summary>
    private static Extent Longer(BlockDevice device, Extent extent, long length)
    {
        DeviceRun run = device.GetRun(extent.Offset, length, joinsUnstored: false);

        // What it is may have changed since.
        return run.Kind == DeviceRun.Of(extent).Kind && run.Length > extent.Length
            ? extent with { Length = run.Length } : extent;
    }
}
