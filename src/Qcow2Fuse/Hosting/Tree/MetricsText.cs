// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>What the images of a mount did, as OpenMetrics text (version 1.0.0).</summary>
internal static class MetricsText
{
    /// <summary>The metrics of all images, each line made when it is asked for: there may be many images.</summary>
    /// <param name="images">Gone through again and again; keeps none of them, as <see cref="ImageSet.OneByOne"/> does.
    /// </param>
    public static IEnumerable<string> Lines(IEnumerable<ImageNodes> images)
    {
        IEnumerable<string> all =
            Counter("qcow2fuse_requests", null, "Requests of the kernel that were served", images, Requests)
                .Concat(Counter("qcow2fuse_bytes", "bytes", "Bytes of those requests", images, Bytes))
                .Concat(Latencies(images))
                .Concat(Family("qcow2fuse_image_open", "gauge", null, "Whether the image is open now"))
                .Concat(images.Select(static image =>
                    Sample("qcow2fuse_image_open", image, label: "", image.Image.Current is null ? 0 : 1)))
                .Concat(Tables(images, "qcow2fuse_table_hits", "Tables found in the cache", static t => t.Hits))
                .Concat(Tables(images, "qcow2fuse_table_reads", "Tables read from the file", static t => t.Misses))
                .Concat(Tables(
                    images, "qcow2fuse_table_writes", "Tables written to the file", static t => t.Written))
                .Concat(Family("qcow2fuse_tables_held", "gauge", null, "Tables in the cache now"))
                .Concat(TableSamples(images, "qcow2fuse_tables_held", static t => t.Held))
                .Concat(Family(
                    "qcow2fuse_metadata_flushes", "counter", null, "Flushes that made all metadata durable"))
                .Concat(Open(images).Select(static open =>
                    Sample("qcow2fuse_metadata_flushes_total", open.Image, label: "", open.Statistics.Flushes)));
        return all.Concat(ManagedMemory()).Append("# EOF");
    }

    private static IEnumerable<(ImageNodes Image, MetadataStatistics Statistics)> Open(
        IEnumerable<ImageNodes> images) =>
        from image in images
        let statistics = StatisticsOf(image.Image)
        where statistics is not null
        select (image, statistics.Value);

    /// <summary>The heap of the runtime. Requests take nothing from it; texts, listings and commands do.</summary>
    private static IEnumerable<string> ManagedMemory()
    {
        const string Allocated = "qcow2fuse_managed_allocated_bytes";
        const string Limit = "qcow2fuse_managed_limit_bytes";
        foreach (string line in Family(Allocated, "counter", "bytes", "Managed memory allocated so far"))
            yield return line;
        yield return string.Create(
            CultureInfo.InvariantCulture, $"{Allocated}_total {GC.GetTotalAllocatedBytes(precise: true)}");
        foreach (string line in Family(Limit, "gauge", "bytes", "Managed memory that may be in use"))
            yield return line;
        yield return string.Create(
            CultureInfo.InvariantCulture, $"{Limit} {GC.GetGCMemoryInfo().TotalAvailableMemoryBytes}");
    }

    private static IEnumerable<(string Operation, long Value)> Requests(ImageCounters counters) =>
    [
        ("read", counters.Reads), ("write", counters.Writes), ("zero", counters.Zeroes), ("flush", counters.Flushes),
    ];

    private static IEnumerable<(string Operation, long Value)> Bytes(ImageCounters counters) =>
        [("read", counters.ReadBytes), ("write", counters.WrittenBytes), ("zero", counters.ZeroedBytes)];

    private static IEnumerable<string> Counter(
        string name, string? unit, string help, IEnumerable<ImageNodes> images,
        Func<ImageCounters, IEnumerable<(string Operation, long Value)>> values) =>
        Family(name, "counter", unit, help).Concat(
            from image in images
            from sample in values(image.Image.Counters)
            select Sample(name + "_total", image, $",op=\"{sample.Operation}\"", sample.Value));

    private static IEnumerable<string> Latencies(IEnumerable<ImageNodes> images)
    {
        const string Name = "qcow2fuse_request_duration_seconds";
        IEnumerable<string> OfImage(ImageNodes image)
        {
            ImageCounters counters = image.Image.Counters;
            return Latency(Name, image, "read", counters.ReadLatency)
                .Concat(Latency(Name, image, "write", counters.WriteLatency))
                .Concat(Latency(Name, image, "zero", counters.ZeroLatency))
                .Concat(Latency(Name, image, "flush", counters.FlushLatency));
        }

        return Family(Name, "histogram", "seconds", "How long those requests took").Concat(images.SelectMany(OfImage));
    }

    private static IEnumerable<string> Latency(
        string name, ImageNodes image, string operation, LatencyHistogram latency)
    {
        string label = $",op=\"{operation}\"";
        double sum = latency.Sum;
        long[] counts = latency.Cumulative();
        for (int i = 0; i < counts.Length; i++)
        {
            string bound = i == LatencyHistogram.Bounds.Length ? "+Inf" : Canonical(LatencyHistogram.Bounds[i]);
            yield return Sample(name + "_bucket", image, $"{label},le=\"{bound}\"", counts[i]);
        }

        yield return Sample(name + "_count", image, label, counts[^1]);
        yield return string.Create(
            CultureInfo.InvariantCulture, $"{name}_sum{{image=\"{Escape(image.Name)}\"{label}}} {sum:0.0########}");
    }

    /// <summary>As OpenMetrics wants bounds: <c>5e-05</c>, <c>0.001</c>, <c>1.0</c>.</summary>
    private static string Canonical(double bound) =>
        bound.ToString(bound < 1e-4 ? "0e-00" : "0.0####", CultureInfo.InvariantCulture);

    private static IEnumerable<string> Tables(
        IEnumerable<ImageNodes> images, string name, string help, Func<TableCacheStatistics, long> value) =>
        Family(name, "counter", null, help).Concat(TableSamples(images, name + "_total", value));

    private static IEnumerable<string> TableSamples(
        IEnumerable<ImageNodes> images, string name, Func<TableCacheStatistics, long> value) =>
        Open(images).SelectMany(open => (string[])
        [
            Sample(name, open.Image, ",table=\"l2\"", value(open.Statistics.L2)),
            Sample(name, open.Image, ",table=\"refcount\"", value(open.Statistics.RefcountBlocks)),
        ]);

    private static IEnumerable<string> Family(string name, string type, string? unit, string help)
    {
        yield return $"# TYPE {name} {type}";
        if (unit is not null)
            yield return $"# UNIT {name} {unit}";
        yield return $"# HELP {name} {help}.";
    }

    private static string Sample(string name, ImageNodes image, string label, long value) => string.Create(
        CultureInfo.InvariantCulture, $"{name}{{image=\"{Escape(image.Name)}\"{label}}} {value}");

    private static string Escape(string text) =>
        Printable.Text(text).Replace("\\", "\\\\", StringComparison.Ordinal)
            .Replace("\"", "\\\"", StringComparison.Ordinal);

    /// <summary>The statistics of an image that is open and has tables.</summary>
    internal static MetadataStatistics? StatisticsOf(HostedImage image)
    {
        BlockDevice? device = image.AcquireOpen();
        if (device is null)
            return null;
        try
        {
            return (FilterDevice.Unwrap(device) as Qcow2Device)?.Statistics;
        }
        finally
        {
            image.Release();
        }
    }
}
