// SPDX-License-Identifier: MIT
using System.Globalization;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Images.Reports;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Daemon;

/// <summary>What the images of a mount did, a line each for the log.</summary>
internal static class HostStatistics
{
    /// <summary>Writes the lines.</summary>
    public static void Write(IReadOnlyList<ImageNodes> images, ILogger logger)
    {
        foreach (ImageNodes image in images)
            HostLog.Statistics(logger, $"{image.Name}: {Requests(image.Image.Counters)}{Tables(image.Image)}");
    }

    private static string Requests(ImageCounters counters) => string.Create(
        CultureInfo.InvariantCulture,
        $"{counters.Reads} reads ({SizeText.Human(counters.ReadBytes)}), "
        + $"{counters.Writes} writes ({SizeText.Human(counters.WrittenBytes)}), "
        + $"{counters.Zeroes} zeroed ({SizeText.Human(counters.ZeroedBytes)}), {counters.Flushes} flushes");

    private static string Tables(HostedImage image) =>
        MetricsText.StatisticsOf(image) is not { } statistics
            ? ""
            : string.Create(
                CultureInfo.InvariantCulture,
                $"; L2 tables {Cache(statistics.L2)}; refcount blocks {Cache(statistics.RefcountBlocks)}; "
                + $"{statistics.Flushes} metadata flushes");

    private static string Cache(TableCacheStatistics cache) => string.Create(
        CultureInfo.InvariantCulture,
        $"{cache.Hits} found, {cache.Misses} read, {cache.Written} written, {cache.Held} held");
}
