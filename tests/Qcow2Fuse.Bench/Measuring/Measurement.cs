// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Bench;

/// <summary>What one run gave.</summary>
/// <param name="PerSecond">Requests per second.</param>
/// <param name="BytesPerSecond">Bytes per second.</param>
/// <param name="CpuMicroseconds">Processor time of the serving processes for one request.</param>
/// <param name="PeakBytes">The most memory the serving processes had resident, together.</param>
public sealed record Measurement(double PerSecond, double BytesPerSecond, double CpuMicroseconds, long PeakBytes);

/// <summary>One subject's runs of one job.</summary>
public sealed class Series
{
    private readonly List<Measurement> _runs = [];

    /// <summary>Why it could not do the job, or null.</summary>
    public string? Failure { get; set; }

    /// <summary>Whether there is anything to show.</summary>
    public bool HasRuns => _runs.Count > 0;

    /// <summary>All runs, in their order.</summary>
    public IReadOnlyList<Measurement> Runs => _runs;

    /// <summary>The median of the requests per second.</summary>
    public double PerSecond => Median(static run => run.PerSecond);

    /// <summary>The median of the bytes per second.</summary>
    public double BytesPerSecond => Median(static run => run.BytesPerSecond);

    /// <summary>The median of the processor time for one request.</summary>
    public double CpuMicroseconds => Median(static run => run.CpuMicroseconds);

    /// <summary>The largest memory of all runs.</summary>
    public long PeakBytes => _runs.Max(static run => run.PeakBytes);

    /// <summary>Adds a run.</summary>
    public void Add(Measurement run) => _runs.Add(run);

    private double Median(Func<Measurement, double> figure)
    {
        double[] sorted = [.. _runs.Select(figure).Order()];
        int middle = sorted.Length / 2;
        return sorted.Length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
    }
}
