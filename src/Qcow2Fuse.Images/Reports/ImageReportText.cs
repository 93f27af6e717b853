// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Device;

namespace Qcow2Fuse.Images.Reports;

/// <summary>An <see cref="ImageReport"/> as <c>qemu-img info</c> prints it for people.</summary>
public static class ImageReportText
{
    /// <summary>Prints the report.</summary>
    public static void Write(ImageReport report, TextWriter output)
    {
        foreach (string line in Lines(report))
            output.WriteLine(line);
    }

    /// <summary>The lines of the report, each made when it is asked for: an image may have any number of them.
    /// </summary>
    public static IEnumerable<string> Lines(ImageReport report)
    {
        yield return $"image: {Printable.Text(report.FileName)}";
        yield return $"file format: {report.Format}";
        yield return string.Create(
            CultureInfo.InvariantCulture,
            $"virtual size: {SizeText.Human(report.VirtualSize)} ({report.VirtualSize} bytes)");
        yield return $"disk size: {SizeText.Human(report.ActualSize)}";
        if (report.Qcow2 is not { } image)
            yield break;
        if (image.EncryptionMethod != 0)
            yield return "encrypted: yes";
        yield return string.Create(CultureInfo.InvariantCulture, $"cluster_size: {image.ClusterSize}");
        if (image.Dirty)
            yield return "cleanly shut down: no";
        foreach (string line in BackingLines(report, image))
            yield return line;
        if (image.Snapshots.Count > 0)
        {
            foreach (string line in SnapshotLines(image.Snapshots))
                yield return line;
        }

        yield return "Format specific information:";
        foreach (string line in Details(image))
            yield return $"    {line}";
    }

    /// <summary>The list of snapshots as qemu-img prints it.</summary>
    public static IEnumerable<string> SnapshotLines(IEnumerable<SnapshotInfo> snapshots)
    {
        yield return "Snapshot list:";
        yield return $"{"ID",-10}{"TAG",-17}{"VM SIZE",8}{"DATE",20}{"VM CLOCK",13}{"ICOUNT",11}";
        foreach (SnapshotInfo snapshot in snapshots)
        {
            string date = DateTimeOffset.FromUnixTimeSeconds(snapshot.DateSeconds).ToLocalTime()
                .ToString("yyyy-MM-dd HH:mm:ss", CultureInfo.InvariantCulture);
            long seconds = ImageReport.ClockSeconds(snapshot);
            long milliseconds = ImageReport.ClockNanoseconds(snapshot) / 1_000_000;
            string clock = $"{seconds / 3600:00}:{seconds / 60 % 60:00}:{seconds % 60:00}.{milliseconds:000}";
            yield return $"{Printable.Text(snapshot.Id),-9} {Printable.Text(snapshot.Name),-16} "
                + $"{SizeText.Human(snapshot.VmStateSize),8}{date,20}{clock,13}{snapshot.InstructionCount,11}";
        }
    }

    private static IEnumerable<string> BackingLines(ImageReport report, Qcow2ImageInfo image)
    {
        if (image.BackingFile is not { } backing)
            yield break;
        string full = report.FullBackingFile!;
        string actual = string.Equals(full, backing, StringComparison.Ordinal)
            ? ""
            : $" (actual path: {Printable.Text(full)})";
        yield return $"backing file: {Printable.Text(backing)}{actual}";
        if (image.BackingFormat is { } format)
            yield return $"backing file format: {Printable.Text(format)}";
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

    private static IEnumerable<string> BitmapLines(IEnumerable<BitmapInfo> bitmaps)
    {
        int number = 0;
        foreach (BitmapInfo bitmap in bitmaps)
        {
            yield return string.Create(CultureInfo.InvariantCulture, $"[{number++}]:");
            yield return "    flags:";
            int flag = 0;
            foreach (string name in ImageReport.FlagsOf(bitmap))
                yield return string.Create(CultureInfo.InvariantCulture, $"        [{flag++}]: {name}");
            yield return $"    name: {Printable.Text(bitmap.Name)}";
            yield return string.Create(CultureInfo.InvariantCulture, $"    granularity: {bitmap.Granularity}");
        }
    }

    private static string YesNo(bool value) => value ? "true" : "false";
}
