// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block;
using Qcow2Fuse.Qcow2;

namespace Qcow2Fuse.Output;

/// <summary>An <see cref="ImageReport"/> as <c>qemu-img info</c> prints it for people.</summary>
internal static class ImageReportText
{
    /// <summary>Prints the report.</summary>
    public static void Write(ImageReport report, TextWriter output)
    {
        output.WriteLine($"image: {Printable.Text(report.FileName)}");
        output.WriteLine($"file format: {report.Format}");
        output.WriteLine($"virtual size: {SizeText.Human(report.VirtualSize)} ({report.VirtualSize} bytes)");
        output.WriteLine($"disk size: {SizeText.Human(report.ActualSize)}");
        if (report.Qcow2 is not { } image)
            return;
        if (image.EncryptionMethod != 0)
            output.WriteLine("encrypted: yes");
        output.WriteLine($"cluster_size: {image.ClusterSize}");
        if (image.Dirty)
            output.WriteLine("cleanly shut down: no");
        WriteBacking(report, image, output);
        if (image.Snapshots.Count > 0)
            WriteSnapshots(image.Snapshots, output);
        output.WriteLine("Format specific information:");
        foreach (string line in Details(image))
            output.WriteLine($"    {line}");
    }

    private static void WriteBacking(ImageReport report, Qcow2ImageInfo image, TextWriter output)
    {
        if (image.BackingFile is not { } backing)
            return;
        string full = report.FullBackingFile!;
        string actual = string.Equals(full, backing, StringComparison.Ordinal)
            ? ""
            : $" (actual path: {Printable.Text(full)})";
        output.WriteLine($"backing file: {Printable.Text(backing)}{actual}");
        if (image.BackingFormat is { } format)
            output.WriteLine($"backing file format: {Printable.Text(format)}");
    }

    /// <summary>Prints the list of snapshots as qemu-img does.</summary>
    public static void WriteSnapshots(IReadOnlyList<SnapshotInfo> snapshots, TextWriter output)
    {
        output.WriteLine("Snapshot list:");
        output.WriteLine(
            $"{"ID",-10}{"TAG",-17}{"VM SIZE",8}{"DATE",20}{"VM CLOCK",13}{"ICOUNT",11}");
        foreach (SnapshotInfo snapshot in snapshots)
        {
            string date = DateTimeOffset.FromUnixTimeSeconds(snapshot.DateSeconds).ToLocalTime()
                .ToString("yyyy-MM-dd HH:mm:ss", CultureInfo.InvariantCulture);
            long seconds = ImageReport.ClockSeconds(snapshot);
            long milliseconds = ImageReport.ClockNanoseconds(snapshot) / 1_000_000;
            string clock = $"{seconds / 3600:00}:{seconds / 60 % 60:00}:{seconds % 60:00}.{milliseconds:000}";
            output.WriteLine(
                $"{Printable.Text(snapshot.Id),-9} {Printable.Text(snapshot.Name),-16} "
                + $"{SizeText.Human(snapshot.VmStateSize),8}{date,20}{clock,13}{snapshot.InstructionCount,11}");
        }
    }

    private static IEnumerable<string> Details(Qcow2ImageInfo image)
    {
        yield return $"compat: {ImageReport.CompatOf(image)}";
        yield return $"compression type: {ImageReport.CompressionOf(image)}";
        if (image.Version >= 3)
            yield return $"lazy refcounts: {YesNo(image.LazyRefcounts)}";
        if (image.Bitmaps.Count > 0)
        {
            yield return "bitmaps:";
            foreach (string line in BitmapLines(image.Bitmaps))
                yield return $"    {line}";
        }

        yield return string.Create(CultureInfo.InvariantCulture, $"refcount bits: {image.RefcountBits}");
        if (image.EncryptionMethod != 0)
        {
            yield return "encrypt:";
            foreach (string line in EncryptionReport.Lines(image))
                yield return $"    {line}";
        }

        if (image is { HasExternalData: true, DataFile: not null })
            yield return $"data file: {Printable.Text(image.DataFile)}";
        if (image.HasExternalData)
            yield return $"data file raw: {YesNo(image.DataFileRaw)}";
        if (image.Version >= 3)
        {
            yield return $"corrupt: {YesNo(image.Corrupt)}";
            yield return $"extended l2: {YesNo(image.ExtendedL2)}";
        }
    }

    private static IEnumerable<string> BitmapLines(IReadOnlyList<BitmapInfo> bitmaps)
    {
        for (int i = 0; i < bitmaps.Count; i++)
        {
            yield return string.Create(CultureInfo.InvariantCulture, $"[{i}]:");
            yield return "    flags:";
            int flag = 0;
            foreach (string name in ImageReport.FlagsOf(bitmaps[i]))
                yield return string.Create(CultureInfo.InvariantCulture, $"        [{flag++}]: {name}");
            yield return $"    name: {Printable.Text(bitmaps[i].Name)}";
            yield return string.Create(CultureInfo.InvariantCulture, $"    granularity: {bitmaps[i].Granularity}");
        }
    }

    private static string YesNo(bool value) => value ? "true" : "false";
}
