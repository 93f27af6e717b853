// SPDX-License-Identifier: MIT
using System.Globalization;
using Xunit;

namespace Qcow2Fuse.Testing;

/// <summary>
/// The processor time of the calling thread, which a machine under load does not lengthen. Steps are 10 ms.
/// </summary>
public readonly struct ProcessorWatch
{
    private const int TicksPerSecond = 100;

    private readonly long _start;

    private ProcessorWatch(long start) => _start = start;

    /// <summary>Processor time since the start.</summary>
    public TimeSpan Elapsed => TimeSpan.FromMilliseconds((Ticks() - _start) * (1000 / TicksPerSecond));

    /// <summary>Starts now; <see cref="Elapsed"/> must be asked by the same thread.</summary>
    public static ProcessorWatch StartNew() => new(Ticks());

    /// <summary>Fails where the thread has used as much as <paramref name="limit"/>.</summary>
    public void ShouldBeBelow(TimeSpan limit, string what = "this")
    {
        TimeSpan elapsed = Elapsed;
        Assert.True(elapsed < limit, $"{what} took {elapsed} of processor time");
    }

    private static long Ticks()
    {
        // The fields behind the name in parentheses; utime and stime are the 12th and the 13th of them.
        string stat = File.ReadAllText("/proc/thread-self/stat");
        string[] fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
        return long.Parse(fields[11], CultureInfo.InvariantCulture)
            + long.Parse(fields[12], CultureInfo.InvariantCulture);
    }
}
