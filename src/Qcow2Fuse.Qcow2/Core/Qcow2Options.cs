// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;

namespace Qcow2Fuse.Qcow2.Core;

/// <summary>How qcow2 images are opened, beyond what holds for all formats.</summary>
public sealed record Qcow2Options : FormatOptions
{
    /// <summary>Upper bound of the cache of L2 slices in bytes; 0 for the default.</summary>
    public long L2CacheBytesMax { get; init; }

    /// <summary>Upper bound of the cache of refcount blocks in bytes; 0 for the default.</summary>
    public long RefcountCacheBytesMax { get; init; }

    /// <summary>Whether caches find memory for the tables most used when they are opened, not when they need it.
    /// </summary>
    public bool PopulateCaches { get; init; }

    /// <summary>
    /// Cached tables that nobody used for so long are given up; <see cref="TimeSpan.Zero"/> keeps them for ever.
    /// </summary>
    public TimeSpan CacheCleanInterval { get; init; } = TimeSpan.FromMinutes(10);

    /// <summary>
    /// Threads that compress finished clusters; null for as many as there are processors, at most 8. With 0 whoever
    /// finishes a cluster compresses it.
    /// </summary>
    public int? CompressionThreads { get; init; }
}
