// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;

namespace Qcow2Fuse.Bench;

/// <summary>What a mount costs before anything is done with it.</summary>
/// <param name="DiskSize">The size of the disk, as typed.</param>
/// <param name="ReadyMilliseconds">Median time from the start of the command to its end, when the file answers.</param>
/// <param name="ResidentBytes">Memory resident then.</param>
public sealed record Footprint(string DiskSize, double ReadyMilliseconds, long ResidentBytes)
{
    private const int Mounts = 11;

    /// <summary>Mounts an empty image of each size several times, in turns.</summary>
    public static IReadOnlyList<Footprint> Measure(BenchOptions options, OwnMount own, params string[] sizes)
    {
        List<double>[] times = [.. sizes.Select(static _ => new List<double>())];
        long[] resident = new long[sizes.Length];
        for (int i = 0; i < Mounts; i++)
        {
            for (int which = 0; which < sizes.Length; which++)
            {
                string image = Path.Combine(options.Work, "idle.qcow2");
                File.Delete(image);
                Tool.Run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", image, sizes[which]);
                Stopwatch watch = Stopwatch.StartNew();
                using Served served = own.Mount(image, "cache=none");
                times[which].Add(watch.Elapsed.TotalMilliseconds);
                resident[which] = ProcessFigures.ResidentBytes(served.Processes);
            }
        }

        return [.. sizes.Select((size, which) =>
            new Footprint(size, times[which].Order().ElementAt(Mounts / 2), resident[which]))];
    }

    /// <summary>A line for the report.</summary>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture,
        $"mount of an empty image, {DiskSize}: ready after {ReadyMilliseconds:F0} ms, {ResidentBytes >> 20} MiB");
}
