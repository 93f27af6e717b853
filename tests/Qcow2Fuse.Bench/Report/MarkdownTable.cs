// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;

namespace Qcow2Fuse.Bench;

/// <summary>The results as a table in Markdown.</summary>
public static class MarkdownTable
{
    private const int Mebibyte = 1 << 20;

    /// <summary>
    /// Writes the table: a row for each job, a column for each subject, the ratios that are aimed at, and those that
    /// each mount of this project reaches.
    /// </summary>
    public static string Write(IReadOnlyList<JobResult> results, IReadOnlyList<Subject> subjects)
    {
        StringBuilder text = new();
        Subject[] own = [.. subjects.Where(static subject => subject.IsOwn)];
        string names = string.Join(" | ", subjects.Select(static subject => subject.Name));
        text.Append(Invariant($"| job | {names} | aim: to best peer | to raw file |"));
        foreach (Subject subject in own)
            text.Append(Invariant($" {subject.Name}: to best peer | to raw file | reached | CPU/request | memory |"));
        text.AppendLine().Append("| ---").Append(string.Concat(Enumerable.Repeat(" | ---:", subjects.Count + 2)))
            .Append(string.Concat(Enumerable.Repeat(" | ---: | ---: | :---: | ---: | ---:", own.Length)))
            .AppendLine(" |");
        foreach (JobResult result in results)
        {
            IEnumerable<string> figures = subjects.Select(subject => Cell(result, subject, subjects));
            string[] cells =
            [
                result.Job.Title, .. figures, Bar(result.Job.PeerBar), Bar(result.Job.RawBar),
                .. own.SelectMany(subject => OwnCells(result, subject)),
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

    private static string[] OwnCells(JobResult result, Subject subject)
    {
        Series? series = result.Find(subject);
        return
        [
            Ratio(result.PeerRatio(subject)), Ratio(result.RawRatio(subject)),
            result.IsReached(subject) ? "yes" : "no", Cpu(series), Memory(series),
        ];
    }

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
