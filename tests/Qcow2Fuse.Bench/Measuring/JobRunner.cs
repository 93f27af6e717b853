// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;

namespace Qcow2Fuse.Bench;

/// <summary>Has every subject do a job, in turns, and keeps the figures.</summary>
public sealed class JobRunner(BenchOptions options, SceneFiles files, IReadOnlyList<Subject> subjects, TextWriter log)
{
    private readonly CompressedCopy _copy = new(options, files);

    /// <summary>Does a job; a subject that fails has no figures but a reason.</summary>
    public JobResult Run(Job job)
    {
        JobResult result = new(job);
        IReadOnlyList<Subject> taking = job.CompressedCopy
            ? [.. subjects.Where(static one => one.IsOwn), _copy.Peer]
            : [.. subjects.Where(one => one.Missing is null && (job.HasRaw || !one.IsRaw))];
        for (int round = 0; round < options.Rounds; round++)
        {
            for (int turn = 0; turn < taking.Count; turn++)
            {
                // Nobody is always the first, or always the one after somebody else.
                Subject subject = taking[(turn + round) % taking.Count];
                Series series = result.Of(subject);
                if (series.Failure is null)
                    Try(job, subject, series);
            }
        }

        return result;
    }

    private void Try(Job job, Subject subject, Series series)
    {
        Stopwatch watch = Stopwatch.StartNew();
        try
        {
            Measurement run = job.CompressedCopy ? _copy.Run(job, subject) : Measure(job, subject);
            series.Add(run);
            log.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"{job.Id,-8} {subject.Name,-20} {run.PerSecond,10:F0}/s {run.BytesPerSecond / 1048576,8:F0} MiB/s ")
                + string.Create(
                    CultureInfo.InvariantCulture,
                    $"{run.CpuMicroseconds,7:F1} us {run.PeakBytes >> 20,5} MiB ({watch.Elapsed.TotalSeconds:F1} s)"));
        }
        catch (Exception failure) when (failure is InvalidOperationException or TimeoutException or IOException)
        {
            series.Failure = failure.Message.Split('\n')[0];
            log.WriteLine($"{job.Id,-8} {subject.Name,-20} {series.Failure}");
        }
    }

    private Measurement Measure(Job job, Subject subject)
    {
        using Served served = subject.Serve(job, files);
        string file = served.File;
        string? loop = null;
        try
        {
            if (job.Loop && !subject.IsRaw)
                loop = file = Tool.Run("losetup", "--find", "--show", "--direct-io=on", file).Trim();
            Tool.DropCaches();
            if (job.Warm)
                Tool.Run("dd", "if=" + file, "of=/dev/null", "bs=1M", "status=none");
            return FioRun.Run(job, file, files.SizeOf(job.Scene), options.Seconds, served.Processes);
        }
        finally
        {
            if (loop is not null)
                Tool.Run("losetup", "--detach", loop);
        }
    }
}
