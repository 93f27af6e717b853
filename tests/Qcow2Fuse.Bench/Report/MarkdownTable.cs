// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;

namespace Qcow2Fuse.Bench;

/// <summary>The results as a table in Markdown.</summary>
public static class MarkdownTable
{
    private const int Mebibyte = 1 << 20;

    /// <summary>Writes the table: a row for each job, a column for each subject, ratios and their aims.</summary>
    public static string Write(IReadOnlyList<JobResult> results, IReadOnlyList<Subject> subjects)
    {
        StringBuilder text = new();
        string names = string.Join(" | ", subjects.Select(static subject => subject.Name));
        text.AppendLine(Invariant(
            $"| job | {names} | to best peer | aim | to raw file | aim | reached | CPU/request | memory |"));
        text.Append("| ---").Append(string.Concat(Enumerable.Repeat(" | ---:", subjects.Count + 4)))
            .AppendLine(" | :---: | ---: | ---: |");
        foreach (JobResult result in results)
        {
            IEnumerable<string> figures = subjects.Select(subject => Cell(result, subject, subjects));
            string[] cells =
            [
                result.Job.Title, .. figures,
                Ratio(result.PeerRatio), Bar(result.Job.PeerBar), Ratio(result.RawRatio), Bar(result.Job.RawBar),
                result.IsReached ? "yes" : "no", Cpu(result.Own), Memory(result.Own),
            ];
            text.Append("| ").AppendJoin(" | ", cells).AppendLine(" |");
        }

        return text.ToString();
    }

    /// <summary>Why figures are missing, a line each.</summary>
    public static IEnumerable<string> Gaps(IReadOnlyList<JobResult> results) =>
        from result in results
        from pair in result.All
        where pair.Value.Failure is not null
        select $"{result.Job.Id}, {pair.Key.Name}: {pair.Value.Failure}";

    private static string Cell(JobResult result, Subject subject, IReadOnlyList<Subject> subjects)
    {
        Series? series = result.All.FirstOrDefault(pair => pair.Key == subject).Value;

        // The compressed copy has a peer of its own, which stands in the column of the first one.
        Subject firstPeer = subjects.First(static one => !one.IsOwn && !one.IsRaw);
        if (series is null && result.Job.CompressedCopy && subject == firstPeer)
            series = result.All.FirstOrDefault(static pair => !pair.Key.IsOwn).Value;
        if (series is not { HasRuns: true })
            return "—";
        return result.Job.IsCountedInBytes
            ? Invariant($"{series.BytesPerSecond / Mebibyte:N0} MiB/s")
            : Invariant($"{series.PerSecond:N0}/s");
    }

    private static string Ratio(double? ratio) => ratio is { } value ? Invariant($"{value:F2}") : "—";

    private static string Bar(double? bar) => bar is { } value ? Invariant($"{value:0.0#}") : "—";

    private static string Cpu(Series? own) => own is null ? "—" : Invariant($"{own.CpuMicroseconds:F1} µs");

    private static string Memory(Series? own) => own is null ? "—" : Invariant($"{own.PeakBytes >> 20} MiB");

    private static string Invariant(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
