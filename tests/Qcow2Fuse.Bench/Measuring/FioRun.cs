// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text.Json;

namespace Qcow2Fuse.Bench;

/// <summary>fio on one file.</summary>
public static class FioRun
{
    private const string RampSeconds = "1";

    /// <summary>Puts the load of a job on a file.</summary>
    /// <param name="job">The job.</param>
    /// <param name="file">The file.</param>
    /// <param name="size">Its length in bytes.</param>
    /// <param name="seconds">Length of a run that has no end of its own.</param>
    /// <param name="processes">Who serves the file.</param>
    public static Measurement Run(Job job, string file, long size, int seconds, IReadOnlyList<int> processes)
    {
        List<string> arguments =
        [
            "--name=bench", "--filename=" + file, $"--size={size}", "--output-format=json", "--group_reporting",
            "--randrepeat=1", "--allow_file_create=0", "--fallocate=none", .. job.Fio,
        ];
        if (!job.OnePass)
            arguments.AddRange(["--time_based", $"--runtime={seconds}", "--ramp_time=" + RampSeconds]);
        double before = ProcessFigures.CpuMicroseconds(processes);
        string output = Tool.Run("fio", arguments);
        double cpu = ProcessFigures.CpuMicroseconds(processes) - before;
        long peak = ProcessFigures.PeakBytes(processes);

        // Notes of fio come before the document.
        using JsonDocument document = JsonDocument.Parse(output[output.IndexOf('{', StringComparison.Ordinal)..]);
        JsonElement all = document.RootElement.GetProperty("jobs")[0];
        JsonElement load = all.GetProperty(job.Writes ? "write" : "read");
        double requests = load.GetProperty("total_ios").GetDouble();
        double share = job.OnePass ? 1 : Share(load.GetProperty("runtime").GetDouble());
        if (requests == 0)
            throw new InvalidOperationException("fio did nothing");
        return new Measurement(
            load.GetProperty("iops").GetDouble(),
            load.GetProperty("bw_bytes").GetDouble(),
            cpu * share / requests,
            peak);
    }

    /// <summary>The part of the processor time that belongs to what fio counted, not to its ramp.</summary>
    private static double Share(double milliseconds) =>
        milliseconds / (milliseconds + (1000 * double.Parse(RampSeconds, CultureInfo.InvariantCulture)));
}
