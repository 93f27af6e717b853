// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block;
using Qcow2Fuse.Qcow2;

namespace Qcow2Fuse.Hosting;

/// <summary>What the images of a mount did, as OpenMetrics text (version 1.0.0).</summary>
internal static class MetricsText
{
    /// <summary>Writes all metrics of all images.</summary>
    public static void Write(IReadOnlyList<ImageNodes> images, TextWriter text)
    {
        WriteCounter(text, "qcow2fuse_requests", null, "Requests of the kernel that were served", images, Requests);
        WriteCounter(text, "qcow2fuse_bytes", "bytes", "Bytes of those requests", images, Bytes);
        WriteLatencies(text, images);
        WriteFamily(text, "qcow2fuse_image_open", "gauge", null, "Whether the image is open now");
        foreach (ImageNodes image in images)
            WriteSample(text, "qcow2fuse_image_open", image, label: "", image.Image.Current is null ? 0 : 1);
        (ImageNodes Image, MetadataStatistics Statistics)[] tables =
            [.. from image in images
                let statistics = StatisticsOf(image.Image)
                where statistics is not null
                select (image, statistics.Value)];
        WriteTables(text, tables, "qcow2fuse_table_hits", "Tables found in the cache", static table => table.Hits);
        WriteTables(text, tables, "qcow2fuse_table_reads", "Tables read from the file", static table => table.Misses);
        WriteTables(
            text, tables, "qcow2fuse_table_writes", "Tables written to the file", static table => table.Written);
        WriteFamily(text, "qcow2fuse_tables_held", "gauge", null, "Tables in the cache now");
        foreach ((ImageNodes image, MetadataStatistics statistics) in tables)
        {
            WriteSample(text, "qcow2fuse_tables_held", image, ",table=\"l2\"", statistics.L2.Held);
            WriteSample(
                text, "qcow2fuse_tables_held", image, ",table=\"refcount\"", statistics.RefcountBlocks.Held);
        }

        WriteFamily(text, "qcow2fuse_metadata_flushes", "counter", null, "Flushes that made all metadata durable");
        foreach ((ImageNodes image, MetadataStatistics statistics) in tables)
            WriteSample(text, "qcow2fuse_metadata_flushes_total", image, label: "", statistics.Flushes);
        WriteManagedMemory(text);
        text.WriteLine("# EOF");
    }

    /// <summary>The heap of the runtime. Requests take nothing from it; texts, listings and commands do.</summary>
    private static void WriteManagedMemory(TextWriter text)
    {
        const string Allocated = "qcow2fuse_managed_allocated_bytes";
        const string Limit = "qcow2fuse_managed_limit_bytes";
        WriteFamily(text, Allocated, "counter", "bytes", "Managed memory allocated so far");
        text.WriteLine(string.Create(
            CultureInfo.InvariantCulture, $"{Allocated}_total {GC.GetTotalAllocatedBytes(precise: true)}"));
        WriteFamily(text, Limit, "gauge", "bytes", "Managed memory that may be in use");
        text.WriteLine(string.Create(
            CultureInfo.InvariantCulture, $"{Limit} {GC.GetGCMemoryInfo().TotalAvailableMemoryBytes}"));
    }

    private static IEnumerable<(string Operation, long Value)> Requests(ImageCounters counters) =>
    [
        ("read", counters.Reads), ("write", counters.Writes), ("zero", counters.Zeroes), ("flush", counters.Flushes),
    ];

    private static IEnumerable<(string Operation, long Value)> Bytes(ImageCounters counters) =>
        [("read", counters.ReadBytes), ("write", counters.WrittenBytes), ("zero", counters.ZeroedBytes)];

    private static void WriteCounter(
        TextWriter text, string name, string? unit, string help, IReadOnlyList<ImageNodes> images,
        Func<ImageCounters, IEnumerable<(string Operation, long Value)>> values)
    {
        WriteFamily(text, name, "counter", unit, help);
        foreach (ImageNodes image in images)
        {
            foreach ((string operation, long value) in values(image.Image.Counters))
                WriteSample(text, name + "_total", image, $",op=\"{operation}\"", value);
        }
    }

    private static void WriteLatencies(TextWriter text, IReadOnlyList<ImageNodes> images)
    {
        const string Name = "qcow2fuse_request_duration_seconds";
        WriteFamily(text, Name, "histogram", "seconds", "How long those requests took");
        foreach (ImageNodes image in images)
        {
            ImageCounters counters = image.Image.Counters;
            WriteLatency(text, Name, image, "read", counters.ReadLatency);
            WriteLatency(text, Name, image, "write", counters.WriteLatency);
            WriteLatency(text, Name, image, "zero", counters.ZeroLatency);
            WriteLatency(text, Name, image, "flush", counters.FlushLatency);
        }
    }

    private static void WriteLatency(
        TextWriter text, string name, ImageNodes image, string operation, LatencyHistogram latency)
    {
        string label = $",op=\"{operation}\"";
        double sum = latency.Sum;
        long[] counts = latency.Cumulative();
        for (int i = 0; i < counts.Length; i++)
        {
            string bound = i == LatencyHistogram.Bounds.Length ? "+Inf" : Canonical(LatencyHistogram.Bounds[i]);
            WriteSample(text, name + "_bucket", image, $"{label},le=\"{bound}\"", counts[i]);
        }

        WriteSample(text, name + "_count", image, label, counts[^1]);
        text.WriteLine(string.Create(
            CultureInfo.InvariantCulture, $"{name}_sum{{image=\"{Escape(image.Name)}\"{label}}} {sum:0.0########}"));
    }

    /// <summary>As OpenMetrics wants bounds: <c>5e-05</c>, <c>0.001</c>, <c>1.0</c>.</summary>
    private static string Canonical(double bound) =>
        bound.ToString(bound < 1e-4 ? "0e-00" : "0.0####", CultureInfo.InvariantCulture);

    private static void WriteTables(
        TextWriter text, (ImageNodes Image, MetadataStatistics Statistics)[] tables, string name, string help,
        Func<TableCacheStatistics, long> value)
    {
        WriteFamily(text, name, "counter", null, help);
        foreach ((ImageNodes image, MetadataStatistics statistics) in tables)
        {
            WriteSample(text, name + "_total", image, ",table=\"l2\"", value(statistics.L2));
            WriteSample(text, name + "_total", image, ",table=\"refcount\"", value(statistics.RefcountBlocks));
        }
    }

    private static void WriteFamily(TextWriter text, string name, string type, string? unit, string help)
    {
        text.WriteLine($"# TYPE {name} {type}");
        if (unit is not null)
            text.WriteLine($"# UNIT {name} {unit}");
        text.WriteLine($"# HELP {name} {help}.");
    }

    private static void WriteSample(TextWriter text, string name, ImageNodes image, string label, long value) =>
        text.WriteLine(string.Create(
            CultureInfo.InvariantCulture, $"{name}{{image=\"{Escape(image.Name)}\"{label}}} {value}"));

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
            while (device is FilterDevice filter)
                device = filter.Child;
            return (device as Qcow2Device)?.Statistics;
        }
        finally
        {
            image.Release();
        }
    }
}
