// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Security;
using System.Text;

namespace Qcow2Fuse.Bench;

/// <summary>The results as bars: each subject's part of the plain file's speed, or of the fastest one's.</summary>
public static class SvgChart
{
    private const int LabelWidth = 430;
    private const int PlotWidth = 520;
    private const int Right = 60;
    private const int BarHeight = 9;
    private const int RowGap = 12;
    private const int Top = 70;
    private const double Largest = 1.5;

    private static readonly string[] Colours = ["#1b6ca8", "#7fb2dd", "#d98324", "#8c8c8c", "#5b8c5a"];

    /// <summary>Draws the chart.</summary>
    public static string Write(IReadOnlyList<JobResult> results, IReadOnlyList<Subject> subjects)
    {
        Subject[] drawn =
            [.. subjects.Where(static subject => !subject.IsRaw).OrderByDescending(static one => one.IsOwn)];
        int rowHeight = (drawn.Length * BarHeight) + RowGap;
        int height = Top + (results.Count * rowHeight) + 30;
        StringBuilder svg = new();
        svg.AppendLine(Invariant(
            $"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {LabelWidth + PlotWidth + Right} {height}\" ")
            + "font-family=\"sans-serif\" font-size=\"12\">");
        svg.AppendLine("<rect width=\"100%\" height=\"100%\" fill=\"white\"/>");
        svg.AppendLine("<text x=\"10\" y=\"20\" font-size=\"15\">Speed as a part of the raw file's</text>");
        svg.AppendLine("<text x=\"10\" y=\"38\" fill=\"#555\">rows with *: as a part of the fastest one's</text>");
        for (int i = 0; i < drawn.Length; i++)
        {
            int x = LabelWidth + (i * 145);
            svg.AppendLine(Invariant($"<rect x=\"{x}\" y=\"10\" width=\"12\" height=\"12\" fill=\"{Colour(i)}\"/>"));
            svg.AppendLine(Invariant($"<text x=\"{x + 17}\" y=\"21\">{SecurityElement.Escape(drawn[i].Name)}</text>"));
        }

        for (double mark = 0; mark <= Largest; mark += 0.25)
        {
            double x = LabelWidth + (mark / Largest * PlotWidth);
            string stroke = mark == 1 ? "#333" : "#ddd";
            svg.AppendLine(Invariant(
                $"<line x1=\"{x:F0}\" y1=\"{Top - 10}\" x2=\"{x:F0}\" y2=\"{height - 25}\" stroke=\"{stroke}\"/>"));
            svg.AppendLine(Invariant($"<text x=\"{x:F0}\" y=\"{Top - 15}\" text-anchor=\"middle\">{mark:0.##}</text>"));
        }

        int y = Top;
        foreach (JobResult result in results)
        {
            Row(svg, result, drawn, y);
            y += rowHeight;
        }

        svg.AppendLine("</svg>");
        return svg.ToString();
    }

    private static void Row(StringBuilder svg, JobResult result, Subject[] drawn, int y)
    {
        double whole = (result.Raw ?? result.All.Select(static pair => pair.Value).Where(static one => one.HasRuns)
            .MaxBy(static one => one.PerSecond))?.PerSecond ?? 0;
        string title = result.Job.Title + (result.Raw is null ? " *" : string.Empty);
        svg.AppendLine(Invariant(
            $"<text x=\"{LabelWidth - 8}\" y=\"{y + BarHeight + 4}\" text-anchor=\"end\">")
            + SecurityElement.Escape(title) + "</text>");
        for (int i = 0; i < drawn.Length; i++)
        {
            Series? series = result.All.FirstOrDefault(pair => pair.Key == drawn[i]).Value;
            if (series is not { HasRuns: true } || whole <= 0)
                continue;
            double part = series.PerSecond / whole;
            double width = Math.Min(part, Largest) / Largest * PlotWidth;
            int top = y + (i * BarHeight);
            svg.AppendLine(Invariant(
                $"<rect x=\"{LabelWidth}\" y=\"{top}\" width=\"{width:F1}\" height=\"{BarHeight - 1}\" ")
                + $"fill=\"{Colour(i)}\"/>");
            svg.AppendLine(Invariant(
                $"<text x=\"{LabelWidth + width + 3:F1}\" y=\"{top + BarHeight - 1}\" font-size=\"9\">")
                + Invariant($"{part:F2}</text>"));
        }
    }

    private static string Colour(int index) => Colours[index % Colours.Length];

    private static string Invariant(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
