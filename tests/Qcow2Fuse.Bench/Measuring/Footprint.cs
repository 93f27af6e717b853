// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Bench;

/// <summary>What a mount costs before anything is done with it.</summary>
public static class Footprint
{
    /// <summary>How it is asked for among the jobs.</summary>
    public const string Id = "idle";

    private const int Mounts = 11;
    private const double Mebibyte = 1 << 20;

    /// <summary>
    /// Mounts an empty image of each size several times, in turns, with both ways to open the image file. A line each:
    /// the median time from the start of the command to its end, when the file answers, and the memory resident then.
    /// </summary>
    public static IReadOnlyList<string> Measure(BenchOptions options, OwnMount own, params string[] sizes)
    {
        (string Size, string Cache)[] kinds =
            [.. from cache in (string[])["writeback", "none"] from size in sizes select (size, cache)];
        List<double>[] times = [.. kinds.Select(static _ => new List<double>())];
        double[] resident = new double[kinds.Length];
        for (int i = 0; i < Mounts; i++)
        {
            for (int which = 0; which < kinds.Length; which++)
            {
                string image = Path.Combine(options.Work, "idle.qcow2");
                File.Delete(image);
                Tool.Run(
                    "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", image, kinds[which].Size);
                using Served served = own.Mount(image, "cache=" + kinds[which].Cache, out TimeSpan ready);
                times[which].Add(ready.TotalMilliseconds);
                resident[which] = Math.Max(resident[which], ProcessFigures.ResidentBytes(served.Processes) / Mebibyte);
            }
        }

        return [.. kinds.Select((kind, which) => string.Create(
            CultureInfo.InvariantCulture,
            $"mount of an empty image, {kind.Size}, cache={kind.Cache}: ready after "
            + $"{times[which].Order().ElementAt(Mounts / 2):F1} ms, {resident[which]:F1} MiB"))];
    }
}
