// SPDX-License-Identifier: MIT
using System.Text.Json;
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Qcow2.Device;

namespace Qcow2Fuse.Images.Reports;

/// <summary>
/// An <see cref="ImageReport"/> as <c>qemu-img info</c> prints it as JSON: the keys and types of ImageInfo in QEMU's
/// QMP reference.
/// </summary>
public static class ImageReportJson
{
    /// <summary>Prints the report, without a newline at its end.</summary>
    public static void Write(ImageReport report, TextWriter output) =>
        JsonText.Write(output, json => Write(report, json));

    /// <summary>Prints the snapshots as an array of SnapshotInfo, without a newline at its end.</summary>
    public static void WriteSnapshots(IEnumerable<SnapshotInfo> snapshots, TextWriter output) =>
        JsonText.Write(output, json => WriteSnapshots(snapshots, json));

    private static void Write(ImageReport report, Utf8JsonWriter json)
    {
        json.WriteStartObject();
        if (report.Qcow2 is { } image)
            WriteHeader(report, image, json);
        json.WriteNumber("virtual-size", report.VirtualSize);
        JsonName.Write(json, "filename", report.FileName);
        json.WriteString("format", report.Format);
        json.WriteNumber("actual-size", report.ActualSize);
        json.WriteBoolean("dirty-flag", report.Qcow2?.Dirty ?? false);
        json.WriteEndObject();
    }

    private static void WriteHeader(ImageReport report, Qcow2ImageInfo image, Utf8JsonWriter json)
    {
        if (image.Snapshots.Count > 0)
        {
            json.WritePropertyName("snapshots");
            WriteSnapshots(image.Snapshots, json);
        }

        json.WriteNumber("cluster-size", image.ClusterSize);
        if (image.EncryptionMethod != 0)
            json.WriteBoolean("encrypted", true);
        if (image.BackingFile is not null)
        {
            JsonName.Write(json, "backing-filename", image.BackingFile);
            JsonName.Write(json, "full-backing-filename", report.FullBackingFile);
            if (image.BackingFormat is not null)
                JsonName.Write(json, "backing-filename-format", image.BackingFormat);
        }

        json.WriteStartObject("format-specific");
        json.WriteString("type", "qcow2");
        json.WriteStartObject("data");
        json.WriteString("compat", ImageReport.CompatOf(image));
        json.WriteString("compression-type", ImageReport.CompressionOf(image));
        if (image.Version >= 3)
            json.WriteBoolean("lazy-refcounts", image.LazyRefcounts);
        if (image.Bitmaps.Count > 0)
            WriteBitmaps(image.Bitmaps, json);
        json.WriteNumber("refcount-bits", image.RefcountBits);
        if (image.EncryptionMethod != 0)
            EncryptionReport.Write(image, json);
        if (image is { HasExternalData: true, DataFile: not null })
            JsonName.Write(json, "data-file", image.DataFile);
        if (image.HasExternalData)
            json.WriteBoolean("data-file-raw", image.DataFileRaw);

        if (image.Version >= 3)
        {
            json.WriteBoolean("corrupt", image.Corrupt);
            json.WriteBoolean("extended-l2", image.ExtendedL2);
        }

        json.WriteEndObject();
        json.WriteEndObject();
    }

    private static void WriteBitmaps(IEnumerable<BitmapInfo> bitmaps, Utf8JsonWriter json)
    {
        json.WriteStartArray("bitmaps");
        foreach (BitmapInfo bitmap in bitmaps)
        {
            json.WriteStartObject();
            json.WriteStartArray("flags");
            foreach (string flag in ImageReport.FlagsOf(bitmap))
                json.WriteStringValue(flag);
            json.WriteEndArray();
            JsonName.Write(json, "name", bitmap.Name);
            json.WriteNumber("granularity", bitmap.Granularity);
            json.WriteEndObject();
            JsonText.PassOn(json);
        }

        json.WriteEndArray();
    }

    private static void WriteSnapshots(IEnumerable<SnapshotInfo> snapshots, Utf8JsonWriter json)
    {
        json.WriteStartArray();
        foreach (SnapshotInfo snapshot in snapshots)
        {
            json.WriteStartObject();
            JsonName.Write(json, "id", snapshot.Id);
            JsonName.Write(json, "name", snapshot.Name);
            json.WriteNumber("vm-state-size", snapshot.VmStateSize);
            json.WriteNumber("date-sec", snapshot.DateSeconds);
            json.WriteNumber("date-nsec", snapshot.DateNanoseconds);
            json.WriteNumber("vm-clock-sec", ImageReport.ClockSeconds(snapshot));
            json.WriteNumber("vm-clock-nsec", ImageReport.ClockNanoseconds(snapshot));
            if (snapshot.InstructionCount is { } count)
                json.WriteNumber("icount", count);
            json.WriteEndObject();
            JsonText.PassOn(json);
        }

        json.WriteEndArray();
    }
}
