// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Images.Reports;

/// <summary>What <c>info</c> says about an image file.</summary>
/// <param name="FileName">The file as the user named it.</param>
/// <param name="Format">qcow2 or raw.</param>
/// <param name="VirtualSize">Size of the disk in bytes.</param>
/// <param name="ActualSize">Bytes the file occupies.</param>
/// <param name="Qcow2">What its header says; null for raw.</param>
public sealed record ImageReport(
    string FileName, string Format, long VirtualSize, long ActualSize, Qcow2ImageInfo? Qcow2)
{
    private const int NanosecondsPerSecond = 1_000_000_000;

    /// <summary>The compatibility level as qemu-img names the versions 2 and 3.</summary>
    public static string CompatOf(Qcow2ImageInfo image) => image.Version == 2 ? "0.10" : "1.1";

    /// <summary>zlib or zstd.</summary>
    public static string CompressionOf(Qcow2ImageInfo image) =>
        image.Compression == CompressionType.Zstd ? "zstd" : "zlib";

    /// <summary>The flags of a bitmap by their names in qemu-img.</summary>
    public static IEnumerable<string> FlagsOf(BitmapInfo bitmap)
    {
        if (bitmap.IsInUse)
            yield return "in-use";
        if (bitmap.IsEnabled)
            yield return "auto";
    }

    /// <summary>The guest's clock of a snapshot in whole seconds.</summary>
    public static long ClockSeconds(SnapshotInfo snapshot) =>
        snapshot.VmClockNanoseconds / NanosecondsPerSecond;

    /// <summary>The rest of the guest's clock in nanoseconds.</summary>
    public static long ClockNanoseconds(SnapshotInfo snapshot) =>
        snapshot.VmClockNanoseconds % NanosecondsPerSecond;

    /// <summary>The backing file's name as seen from here: qemu-img joins it to the image's directory.</summary>
    public string? FullBackingFile
    {
        get
        {
            if (Qcow2?.BackingFile is not { } name)
                return null;
            int slash = FileName.LastIndexOf('/');
            return slash < 0 || name.StartsWith('/') ? name : FileName[..(slash + 1)] + name;
        }
    }
}
