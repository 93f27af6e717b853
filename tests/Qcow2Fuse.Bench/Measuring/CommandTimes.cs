// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;

namespace Qcow2Fuse.Bench;

/// <summary>How long a command takes that only looks, from its start to its end.</summary>
public static class CommandTimes
{
    private const int Rounds = 31;

    /// <summary><c>info</c> of this project and of qemu-img, in turn: medians, and the median of the ratios.</summary>
    public static string Measure(BenchOptions options)
    {
        string image = Path.Combine(options.Work, "info.qcow2");
        Tool.Run("qemu-img", "create", "-q", "-f", "qcow2", image, "1T");
        List<double> own = [];
        List<double> peer = [];
        for (int i = 0; i < Rounds; i++)
        {
            own.Add(Time(options.Program, image));
            peer.Add(Time("qemu-img", image));
        }

        double ratio = Median(own.Zip(peer, static (one, other) => one / other));
        return string.Create(
            CultureInfo.InvariantCulture,
            $"info: {Median(own):F1} ms, qemu-img info {Median(peer):F1} ms, ratio {ratio:F2}");
    }

    private static double Time(string program, string image)
    {
        Stopwatch watch = Stopwatch.StartNew();
        Tool.Run(program, "info", image);
        return watch.Elapsed.TotalMilliseconds;
    }

    private static double Median(IEnumerable<double> figures) => figures.Order().ElementAt(Rounds / 2);
}
