// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Filters;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>A run of a disk that is stored somewhere in its chain of images, or nowhere.</summary>
/// <param name="Length">Its length in bytes, at least 1.</param>
/// <param name="IsData">Stored; what is not reads as zeroes.</param>
internal readonly record struct DataRun(long Length, bool IsData)
{
    private const int RunsCounted = 4096;

    /// <summary>
    /// Bytes of a range that are stored. Of a range with many runs the first ones speak for the rest.
    /// </summary>
    public static long EstimateBytes(BlockDevice device, long offset, long length)
    {
        long seen = 0;
        long stored = 0;
        for (int i = 0; i < RunsCounted && seen < length; i++)
        {
            DataRun run = At(device, offset + seen, length - seen);
            seen += run.Length;
            stored += run.IsData ? run.Length : 0;
        }

        return seen >= length ? stored : (long)(stored * ((double)length / seen));
    }

    /// <summary>The run at <paramref name="offset"/>, of at most <paramref name="length"/> bytes.</summary>
    public static DataRun At(BlockDevice device, long offset, long length)
    {
        while (true)
        {
            if (offset >= device.Length)
                return new DataRun(length, IsData: false);
            Extent extent = device.GetExtent(offset, Math.Min(length, device.Length - offset));
            switch (extent.Kind)
            {
                case ExtentKind.Data or ExtentKind.Compressed:
                    return new DataRun(extent.Length, IsData: true);
                case ExtentKind.Unallocated when device is FilterDevice filter:
                    device = filter.Child;
                    length = extent.Length;
                    break;
                case ExtentKind.Unallocated when device is IOverlay { Backing: { } backing }:
                    device = backing;
                    length = extent.Length;
                    break;
                default:
                    return new DataRun(extent.Length, IsData: false);
            }
        }
    }

    /// <summary>
    /// As <see cref="At"/>, but as long as a bounded part of the metadata tells: for whoever looks for the next data,
    /// or the next hole, over all of a disk.
    /// </summary>
    public static DataRun FarAt(BlockDevice device, long offset, long length)
    {
        long hole = length;
        for (BlockDevice? layer = device; layer is not null && offset < layer.Length;
             layer = BackingChain.Below(layer))
        {
            long reach = Math.Min(hole, layer.Length - offset);
            DeviceRun run = layer.GetRun(offset, reach, joinsUnstored: true);
            if (run.Kind == RunKind.Stored)
            {
                return ReferenceEquals(layer, device)
                    ? new DataRun(run.Length, IsData: true) : ByLayers(device, offset, hole);
            }

            // What lies beyond the end of a layer reads as zeroes.
            if (run.Length < reach)
                hole = run.Length;
        }

        return new DataRun(hole, IsData: false);
    }

    private static DataRun ByLayers(BlockDevice device, long offset, long length)
    {
        for (BlockDevice? layer = device; layer is not null && offset < layer.Length;
             layer = BackingChain.Below(layer))
        {
            DeviceRun run = layer.GetRun(
                offset, Math.Min(length, layer.Length - offset), joinsUnstored: false);
            if (run.Kind != RunKind.Unallocated)
                return new DataRun(run.Length, IsData: run.Kind == RunKind.Stored);
            length = run.Length;
        }

        return new DataRun(length, IsData: false);
    }
}
