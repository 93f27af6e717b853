// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>What the metadata caches of an image did since it was opened.</summary>
/// <param name="L2">Slices of L2 tables.</param>
/// <param name="RefcountBlocks">Slices of refcount blocks.</param>
/// <param name="Flushes">Flushes that made all metadata durable.</param>
public readonly record struct MetadataStatistics(
    TableCacheStatistics L2, TableCacheStatistics RefcountBlocks, long Flushes);
