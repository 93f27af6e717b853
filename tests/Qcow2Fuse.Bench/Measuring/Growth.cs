// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Bench;

/// <summary>
/// What a request costs the daemon as the disk grows, and as the data in it grows. From and to the page cache, so that
/// the disk's speed has no part in it.
/// </summary>
/// <param name="Title">What the row is about.</param>
/// <param name="Read">Random reads of 4 KiB at depth 32.</param>
/// <param name="Write">Random writes of 4 KiB at depth 32 that allocate; null where all is allocated.</param>
public sealed record Growth(string Title, Series Read, Series? Write)
{
    /// <summary>The id for <c>--only</c>.</summary>
    public const string Id = "growth";

    private const long Window = 256L << 20;
    private const string ReadMode = "randread";
    private const string WriteMode = "randwrite";

    private static readonly string[] DiskSizes = ["1G", "64G", "1T", "16T"];
    private static readonly string[] DataSizes = ["1G", "16G", "256G", "1T"];

    /// <summary>
    /// Disks of growing size with the same 256 MiB of data at their ends, and disks of which every cluster is
    /// allocated.
    /// </summary>
    public static IReadOnlyList<Growth> Measure(BenchOptions options, OwnMount own)
    {
        List<Growth> rows = [];
        foreach (string size in DiskSizes)
            rows.Add(OfDisk(options, own, size));
        foreach (string size in DataSizes)
            rows.Add(OfData(options, own, size));
        return rows;
    }

    /// <summary>The table, for the report.</summary>
    public static IEnumerable<string> Table(IReadOnlyList<Growth> rows)
    {
        yield return "| disk | random read | CPU | allocating write | CPU |";
        yield return "| --- | ---: | ---: | ---: | ---: |";
        foreach (Growth row in rows)
            yield return $"| {row.Title} | {Cells(row.Read)} | {Cells(row.Write)} |";
        yield return string.Empty;
    }

    private static Growth OfDisk(BenchOptions options, OwnMount own, string size)
    {
        string image = Path.Combine(options.Work, "growth.qcow2");
        Series read = new();
        Series write = new();
        for (int round = 0; round < options.Rounds; round++)
        {
            File.Delete(image);
            Tool.Run("qemu-img", "create", "-q", "-f", "qcow2", image, size);
            long start = Bytes(size) - Window;
            write.Add(Run(options, own, image, WriteMode, start, Window));

            // What the writes have left out.
            Tool.Run("qemu-io", "-f", "qcow2", "-c", $"write -q {start} {Window}", image);
            read.Add(Run(options, own, image, ReadMode, start, Window));
        }

        File.Delete(image);
        return new Growth($"{size}, 256 MiB of data", read, write);
    }

    private static Growth OfData(BenchOptions options, OwnMount own, string size)
    {
        string image = Path.Combine(options.Work, "growth.qcow2");
        File.Delete(image);
        Tool.Run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", image, size);
        Series read = new();
        for (int round = 0; round < options.Rounds; round++)
            read.Add(Run(options, own, image, ReadMode, 0, Bytes(size)));
        File.Delete(image);
        return new Growth($"{size}, all allocated", read, Write: null);
    }

    private static Measurement Run(
        BenchOptions options, OwnMount own, string image, string mode, long start, long length)
    {
        Job job = new(
            Id, Id, Scene.Full, "--rw=" + mode, "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=32",
            "--norandommap", $"--offset={start}");
        using Served served = own.Mount(image, "cache=writeback");
        return FioRun.Run(job, served.File, length, options.Seconds, served.Processes);
    }

    private static string Cells(Series? series) => series is null
        ? "— | —"
        : string.Create(CultureInfo.InvariantCulture, $"{series.PerSecond:N0}/s | {series.CpuMicroseconds:F1} µs");

    private static long Bytes(string size)
    {
        long number = long.Parse(size[..^1], CultureInfo.InvariantCulture);
        return number << (size[^1] is 'T' ? 40 : 30);
    }
}
