// SPDX-License-Identifier: MIT
using System.Diagnostics;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>How long requests took, counted in buckets by any number of threads without locks or memory.</summary>
internal sealed class LatencyHistogram
{
    private static readonly long[] BoundTicks =
        [.. Bounds.ToArray().Select(static seconds => (long)(seconds * Stopwatch.Frequency))];

    private readonly long[] _counts = new long[Bounds.Length + 1];
    private long _ticks;

    /// <summary>One in which nothing was counted, and nothing is to be.</summary>
    public static LatencyHistogram Empty { get; } = new();

    /// <summary>The upper bounds of the buckets in seconds; one more bucket has none.</summary>
    public static ReadOnlySpan<double> Bounds =>
    [
        50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10,
    ];

    /// <summary>Their sum in seconds.</summary>
    public double Sum => Volatile.Read(ref _ticks) / (double)Stopwatch.Frequency;

    /// <summary>Counts a request that began at a time of <see cref="Stopwatch"/> and ends now.</summary>
    public void Count(long started)
    {
        long ticks = Stopwatch.GetTimestamp() - started;
        int bucket = 0;
        while (bucket < BoundTicks.Length && ticks > BoundTicks[bucket])
            bucket++;
        Interlocked.Increment(ref _counts[bucket]);
        Interlocked.Add(ref _ticks, ticks);
    }

    /// <summary>The number of requests in each bucket and all below it; the last one has all.</summary>
    public long[] Cumulative()
    {
        long[] counts = new long[_counts.Length];
        long all = 0;
        for (int i = 0; i < counts.Length; i++)
            counts[i] = all += Volatile.Read(ref _counts[i]);
        return counts;
    }
}
