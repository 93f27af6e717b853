// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Caching;

/// <summary>What a <see cref="TableCache"/> did since it was made.</summary>
/// <param name="Hits">Requests for a table that was there.</param>
/// <param name="Misses">Reads of tables from the device.</param>
/// <param name="Written">Tables written to the device.</param>
/// <param name="Held">Tables it holds now.</param>
public readonly record struct TableCacheStatistics(long Hits, long Misses, long Written, int Held);
