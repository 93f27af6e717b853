// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text.RegularExpressions;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Control;

/// <summary>The metrics are OpenMetrics text, and say what was done.</summary>
public sealed partial class MetricsTests : ControlTest
{
    private static readonly Dictionary<string, string[]> Suffixes = new(StringComparer.Ordinal)
    {
        ["counter"] = ["_total"],
        ["gauge"] = [""],
        ["histogram"] = ["_bucket", "_count", "_sum"],
    };

    [SkippableFact]
    public void The_text_follows_its_format_and_counts_requests()
    {
        using MountedImage mounted = Start(NewImage("8M"));
        Tool("dd", "if=/dev/zero", $"of={mounted.RawFile}", "bs=1M", "count=3", "oflag=direct", "conv=notrunc,fsync",
            "status=none");
        string text = Get(mounted.ProcessId, "/metrics");
        Dictionary<string, double> samples = Parse(text);
        const string Latency = "qcow2fuse_request_duration_seconds";
        Assert.Equal(3 << 20, samples["qcow2fuse_bytes_total{image=\"disk\",op=\"write\"}"]);
        double writes = samples["qcow2fuse_requests_total{image=\"disk\",op=\"write\"}"];
        Assert.True(writes >= 3);
        Assert.Equal(writes, samples[Latency + "_count{image=\"disk\",op=\"write\"}"]);
        Assert.Equal(writes, samples[Latency + "_bucket{image=\"disk\",op=\"write\",le=\"+Inf\"}"]);
        Assert.True(samples[Latency + "_sum{image=\"disk\",op=\"write\"}"] > 0);
        Assert.Equal(1, samples[Latency + "_count{image=\"disk\",op=\"flush\"}"]);
        string[] bounds = [.. Bound().Matches(text).Select(static match => match.Groups[1].Value).Distinct()];
        Assert.Equal(18, bounds.Length);
        Assert.Equal(["5e-05", "0.0001", "10.0", "+Inf"], (string[])[bounds[0], bounds[1], bounds[^2], bounds[^1]]);
        Assert.Equal(
            samples.Keys, Parse(File.ReadAllText(Path.Combine(mounted.Directory, ".qcow2fuse/metrics"))).Keys);
    }

    [SkippableFact]
    public void Requests_allocate_no_managed_memory()
    {
        QemuTools.RequireTool("fio");
        const int Requests = 40_000;
        string raw = Mount(NewImage("64M"));
        string metrics = Path.Combine(Path.GetDirectoryName(raw)!, ".qcow2fuse/metrics");
        double Allocated() => Parse(File.ReadAllText(metrics))["qcow2fuse_managed_allocated_bytes_total"];
        void Work() => Tool("fio", "--name=all", $"--filename={raw}", "--rw=randrw", "--bs=4k", "--size=64M",
            "--ioengine=psync", "--direct=1", $"--io_size={Requests * 4}k", "--norandommap", "--minimal");

        // What is made once: clusters, tables, the text of the metrics.
        Work();
        _ = Allocated();
        double least = double.MaxValue;
        for (int round = 0; round < 3 && least > Requests / 2; round++)
        {
            double first = Allocated();
            double second = Allocated();
            Work();
            least = Math.Min(least, Allocated() - second - (second - first));
        }

        // Less than half a byte a request.
        Assert.InRange(least, double.MinValue, Requests / 2);
    }

    [SkippableFact]
    public void The_managed_heap_has_an_end()
    {
        string raw = Mount(NewImage());
        string metrics = File.ReadAllText(Path.Combine(Path.GetDirectoryName(raw)!, ".qcow2fuse/metrics"));
        Assert.Equal(128 << 20, Parse(metrics)["qcow2fuse_managed_limit_bytes"]);
    }

    /// <summary>
    /// The samples of a text of OpenMetrics 1.0.0. Fails where a line breaks its grammar, a family is described after
    /// its samples or in two places, a sample does not fit its family, or buckets do not grow.
    /// </summary>
    private static Dictionary<string, double> Parse(string text)
    {
        Assert.EndsWith("# EOF\n", text, StringComparison.Ordinal);
        Dictionary<string, double> samples = new(StringComparer.Ordinal);
        HashSet<string> families = new(StringComparer.Ordinal);
        string family = "";
        string type = "";
        double below = 0;
        foreach (string line in text.Split('\n', StringSplitOptions.RemoveEmptyEntries)[..^1])
        {
            Match described = Description().Match(line);
            if (described.Success)
            {
                string name = described.Groups[2].Value;
                if (described.Groups[1].Value == "TYPE")
                {
                    Assert.True(families.Add(name), $"{name} is described twice");
                    (family, type) = (name, described.Groups[3].Value);
                    Assert.Contains(type, Suffixes.Keys);
                }

                Assert.Equal(family, name);
                if (described.Groups[1].Value == "UNIT")
                    Assert.EndsWith("_" + described.Groups[3].Value, name, StringComparison.Ordinal);
                continue;
            }

            Match sample = Sample().Match(line);
            Assert.True(sample.Success, line);
            Assert.Contains(sample.Groups[1].Value, Suffixes[type].Select(suffix => family + suffix));
            double value = double.Parse(sample.Groups[3].Value, CultureInfo.InvariantCulture);
            Assert.True(samples.TryAdd(sample.Groups[1].Value + sample.Groups[2].Value, value), line);
            bool isBucket = sample.Groups[1].Value.EndsWith("_bucket", StringComparison.Ordinal);
            Assert.True(!isBucket || value >= below, line);
            below = isBucket && !line.Contains("+Inf", StringComparison.Ordinal) ? value : 0;
        }

        return samples;
    }

    [GeneratedRegex("""^# (TYPE|UNIT|HELP) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$""")]
    private static partial Regex Description();

    [GeneratedRegex("""^([a-zA-Z_:][a-zA-Z0-9_:]*)((?:\{[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*\})?) (\d+(?:\.\d+)?)$""")]
    private static partial Regex Sample();

    [GeneratedRegex(",le=\"([^\"]+)\"")]
    private static partial Regex Bound();
}
