// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;
using System.Text.Json;
using Qcow2Fuse.Block.Capabilities;

namespace Qcow2Fuse.Images.Reports;

/// <summary>
/// What <c>check</c> prints: the summary lines of <c>qemu-img check</c>, or its JSON (ImageCheck in QEMU's QMP
/// reference).
/// </summary>
public static class CheckReport
{
    /// <summary>Prints the findings, one a line.</summary>
    public static void WriteFindings(RepairResult result, Action<string> writeLine)
    {
        foreach (CheckFinding finding in result.Before.Findings)
            writeLine($"{(finding.Kind == FindingKind.Leak ? "Leaked" : "ERROR")} {finding.Text}");
        if (result.Before.Findings.Count == CheckResult.FindingsMax)
            writeLine($"Only the first {CheckResult.FindingsMax} findings are listed.");
    }

    /// <summary>The report as text.</summary>
    public static string Text(RepairResult result)
    {
        StringBuilder text = new();
        if (result.LeaksFixed + result.CorruptionsFixed > 0)
        {
            text.Append(CultureInfo.InvariantCulture, $"""
                The following inconsistencies were found and repaired:

                    {result.LeaksFixed} leaked clusters
                    {result.CorruptionsFixed} corruptions

                Double checking the fixed image now...

                """);
        }

        AppendFigures(text, result.After);
        return text.ToString();
    }

    private static void AppendFigures(StringBuilder text, CheckResult check)
    {
        CultureInfo culture = CultureInfo.InvariantCulture;
        if (check.IsClean)
            text.Append("No errors were found on the image.\n");
        if (check.Corruptions > 0)
            text.Append(culture, $"\n{check.Corruptions} errors were found on the image.\n")
                .Append("Data may be corrupted, or further writes to the image may corrupt it.\n");
        if (check.Leaks > 0)
            text.Append(culture, $"\n{check.Leaks} leaked clusters were found on the image.\n")
                .Append("This means waste of disk space, but no harm to data.\n");
        if (check.CheckErrors > 0)
            text.Append(culture, $"\n{check.CheckErrors} internal errors have occurred during the check.\n");
        if (check.TotalClusters > 0 && check.AllocatedClusters > 0)
        {
            double Percent(long part, long whole) => part * 100.0 / whole;
            text.Append(
                culture,
                $"{check.AllocatedClusters}/{check.TotalClusters} = "
                    + $"{Percent(check.AllocatedClusters, check.TotalClusters):F2}% allocated, ")
                .Append(culture, $"{Percent(check.FragmentedClusters, check.AllocatedClusters):F2}% fragmented, ")
                .Append(culture, $"{Percent(check.CompressedClusters, check.AllocatedClusters):F2}% ")
                .Append("compressed clusters\n");
        }

        text.Append(culture, $"Image end offset: {check.ImageEndOffset}\n");
    }

    /// <summary>The report as JSON. Figures that qemu-img leaves out where they are 0 are left out.</summary>
    public static string Json(string fileName, RepairResult result) => JsonText.Format(json =>
    {
        CheckResult check = result.After;
        json.WriteStartObject();
        json.WriteNumber("image-end-offset", check.ImageEndOffset);
        WriteUnlessZero(json, "total-clusters", check.TotalClusters);
        json.WriteNumber("check-errors", check.CheckErrors);
        WriteUnlessZero(json, "corruptions", check.Corruptions);
        WriteUnlessZero(json, "leaks", check.Leaks);
        WriteUnlessZero(json, "corruptions-fixed", result.CorruptionsFixed);
        WriteUnlessZero(json, "leaks-fixed", result.LeaksFixed);
        WriteUnlessZero(json, "allocated-clusters", check.AllocatedClusters);
        WriteUnlessZero(json, "fragmented-clusters", check.FragmentedClusters);
        WriteUnlessZero(json, "compressed-clusters", check.CompressedClusters);
        JsonName.Write(json, "filename", fileName);
        json.WriteString("format", "qcow2");
        json.WriteEndObject();
    }) + "\n";

    private static void WriteUnlessZero(Utf8JsonWriter json, string key, long value)
    {
        if (value != 0)
            json.WriteNumber(key, value);
    }
}
