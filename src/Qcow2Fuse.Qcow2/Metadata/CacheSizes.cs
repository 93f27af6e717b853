// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>How large the metadata caches are, by default as QEMU's are.</summary>
internal static class CacheSizes
{
    private const long L2BytesDefault = 32L << 20;
    private const int RefcountBlocksDefault = 4;
    private const int SlicesMin = 64;

    /// <summary>Slices of the L2 cache: never more than map the whole disk.</summary>
    public static int L2Slices(Qcow2Geometry geometry, long diskBytes, Qcow2Options options)
    {
        long wanted = options.L2CacheBytesMax > 0 ? options.L2CacheBytesMax : L2BytesDefault;
        long all = geometry.L1EntriesFor(diskBytes) << geometry.ClusterBits;
        return Slices(geometry, Math.Min(wanted, all));
    }

    public static int RefcountSlices(Qcow2Geometry geometry, Qcow2Options options) =>
        Slices(geometry, options.RefcountCacheBytesMax > 0
            ? options.RefcountCacheBytesMax
            : (long)RefcountBlocksDefault << geometry.ClusterBits);

    /// <summary>At least so many that every worker can hold its tables while others are being written.</summary>
    private static int Slices(Qcow2Geometry geometry, long bytes) =>
        (int)Math.Clamp(bytes / geometry.SliceBytes, SlicesMin, int.MaxValue / geometry.SliceBytes);
}
