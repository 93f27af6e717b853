// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;

namespace Qcow2Fuse.Bench;

/// <summary>Two builds of the program side by side, as a table in Markdown.</summary>
public static class PairTable
{
    /// <summary>
    /// A row for each job: rates, processor time of a request, and the median of the ratios of the runs of each round.
    /// The last row has the geometric means.
    /// </summary>
    public static string Write(IReadOnlyList<JobResult> results, Subject own, Subject other)
    {
        StringBuilder text = new();
        text.AppendLine(Invariant($"| job | {own.Name} | {other.Name} | ratio | CPU/request | CPU ratio |"));
        text.AppendLine("| --- | ---: | ---: | ---: | ---: | ---: |");
        List<double> rates = [];
        List<double> costs = [];
        foreach (JobResult result in results)
        {
            if (result.Find(own) is not { } ours || result.Find(other) is not { } theirs)
                continue;
            double rate = Median(ours, theirs, static run => run.PerSecond);
            double cost = Median(ours, theirs, static run => run.CpuMicroseconds);
            rates.Add(rate);
            if (cost > 0 && double.IsFinite(cost))
                costs.Add(cost);
            text.Append(Invariant($"| {result.Job.Title} | {ours.PerSecond:N0}/s | {theirs.PerSecond:N0}/s "));
            text.Append(Invariant($"| {rate:F2} | {ours.CpuMicroseconds:F1} / {theirs.CpuMicroseconds:F1} µs "));
            text.AppendLine(Invariant($"| {cost:F2} |"));
        }

        text.AppendLine(Invariant($"| geometric mean | | | {Mean(rates):F3} | | {Mean(costs):F3} |"));
        return text.ToString();
    }

    private static double Median(Series ours, Series theirs, Func<Measurement, double> figure)
    {
        double[] ratios =
            [.. ours.Runs.Zip(theirs.Runs, (one, two) => figure(one) / figure(two)).Order()];
        int middle = ratios.Length / 2;
        return ratios.Length % 2 == 1 ? ratios[middle] : (ratios[middle - 1] + ratios[middle]) / 2;
    }

    private static double Mean(List<double> ratios) =>
        ratios.Count == 0 ? double.NaN : Math.Exp(ratios.Average(static ratio => Math.Log(ratio)));

    private static string Invariant(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
