// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text.RegularExpressions;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>
/// What writes cost in requests to the image file, as docs/write-order.md has it, beside what QEMU does for the same.
/// </summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed partial class FlushCostTests(ITestOutputHelper output)
{
    private const int ClusterSize = 65536;
    private const int Writes = 1000;
    private const long DiskBytes = 4L << 30;

    [Fact]
    public void A_thousand_allocations_and_one_flush_cost_two_flushes_and_one_write_a_table()
    {
        using TestImage image = NewImage();
        foreach (long offset in Offsets())
            image.Write(offset, ClusterSize, 1);
        image.Device.Flush();
        RecordedRequest[] tables = Tables(image);
        output.WriteLine($"{image.Order.FlushCount} flushes, {tables.Length} writes of tables");
        Assert.Equal(2, image.Order.FlushCount);
        for (int i = 0; i < tables.Length; i++)
        {
            for (int other = i + 1; other < tables.Length; other++)
                Assert.False(tables[i].Overlaps(tables[other].Offset, tables[other].Length), "a table twice");
        }

        image.ShouldPassCheck();
    }

    [Fact]
    public void With_writethrough_every_write_costs_what_the_table_says()
    {
        using TestImage image = NewImage();
        using WriteThroughFilter device = new(new Kept(image.Device));
        foreach (long offset in Offsets().Take(50))
            device.Write(offset, Stamp.Bytes(offset, ClusterSize, 1));

        // Data, refcounts, flush; L2 entry, flush.
        Assert.Equal(50 * 2, image.Order.FlushCount);
        Assert.Equal(50 * 3, image.Order.Requests.Count(request => request.Op == BlockOp.Write));
        image.Order.Clear();
        foreach (long offset in Offsets().Take(50))
            device.Write(offset, Stamp.Bytes(offset, ClusterSize, 2));

        // Data, flush.
        Assert.Equal(50, image.Order.FlushCount);
        Assert.Equal(50, image.Order.Requests.Count(request => request.Op == BlockOp.Write));
    }

    [SkippableTheory]
    [InlineData("writeback")]
    [InlineData("writethrough")]
    public void Qemu_does_not_do_with_less(string cache)
    {
        QemuTools.RequireTool("qemu-img");
        QemuTools.RequireTool("strace");
        using TempDirectory directory = new();
        Cost theirs = CountQemu(directory, cache);
        using TestImage image = NewImage();
        using WriteThroughFilter filter = new(new Kept(image.Device));
        BlockDevice device = cache == "writeback" ? image.Device : filter;
        foreach (long offset in Offsets())
            device.Write(offset, Stamp.Bytes(offset, ClusterSize, 1));
        image.Close();
        RecordedRequest[] writes = [.. image.Order.Requests.Where(request => request.Op == BlockOp.Write)];
        Cost ours = new(writes.Length, writes.Sum(request => request.Length), image.Order.FlushCount);
        output.WriteLine($"{cache}: {Writes} allocating writes and a close: {ours}, QEMU {theirs}");

        // Tables are written in pieces of 4 KiB, more of them and fewer bytes; closing flushes once more.
        Assert.InRange(ours.Flushes, 1, theirs.Flushes + 1);
        Assert.InRange(ours.Bytes, 1, theirs.Bytes);
    }

    /// <summary>An image whose L2 tables and refcount blocks exist, so that only entries change.</summary>
    private static TestImage NewImage()
    {
        TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = DiskBytes });
        for (long at = 0; at < DiskBytes; at += 512L << 20)
            image.Write(at, 512, 9);
        image.Device.Flush();
        image.Order.Clear();
        return image;
    }

    private static IEnumerable<long> Offsets()
    {
        SeededRandom random = new(7);
        HashSet<long> seen = [];
        while (seen.Count < Writes)
        {
            long cluster = 1 + random.Below((int)(DiskBytes / ClusterSize) - 1);
            if (cluster % 8192 != 0 && seen.Add(cluster))
                yield return cluster * ClusterSize;
        }
    }

    /// <summary>Writes that are not of guest data.</summary>
    private static RecordedRequest[] Tables(TestImage image)
    {
        HashSet<long> data = [.. Offsets().Select(offset => (long)(image.L2EntryOf(offset) & L2Entry.OffsetMask))];
        return
        [
            .. image.Order.Requests.Where(
                request => request.Op == BlockOp.Write && !data.Contains(request.Offset / ClusterSize * ClusterSize)),
        ];
    }

    private static Cost CountQemu(TempDirectory directory, string cache)
    {
        string image = directory.File("theirs.qcow2");
        string trace = directory.File("trace");
        QemuTools.Img("create", "-q", "-f", "qcow2", image, "4G");
        List<string> first = [];
        for (long at = 0; at < DiskBytes; at += 512L << 20)
            first.Add(string.Create(CultureInfo.InvariantCulture, $"write -P 9 {at} 512"));
        QemuTools.Io(image, [.. first]);
        List<string> arguments =
        [
            "-f", "-qq", "-e", "trace=pwrite64,pwritev,fdatasync,fsync", "-o", trace,
            ProcessRunner.Find("qemu-io")!, "-t", cache,
        ];
        foreach (long offset in Offsets())
            arguments.AddRange(["-c", string.Create(CultureInfo.InvariantCulture, $"write {offset} {ClusterSize}")]);
        arguments.Add(image);
        ProcessRunner.Run(ProcessRunner.Find("strace")!, arguments).ShouldSucceed();
        string[] lines = File.ReadAllLines(trace);
        string[] done = [.. lines.Where(line => Finished().IsMatch(line))];
        return new Cost(
            done.Length,
            done.Sum(line => long.Parse(Finished().Match(line).Groups[1].ValueSpan, CultureInfo.InvariantCulture)),
            lines.Count(line => line.Contains("sync(", StringComparison.Ordinal)));
    }

    [GeneratedRegex(@"pwrite.*= (\d+)$")]
    private static partial Regex Finished();

    private readonly record struct Cost(int Requests, long Bytes, int Flushes);

    /// <summary>Keeps the device open when the filter above it is closed.</summary>
    private sealed class Kept(BlockDevice child) : PassThroughDevice(child);
}
