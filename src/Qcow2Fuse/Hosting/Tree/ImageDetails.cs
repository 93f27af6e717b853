// SPDX-License-Identifier: MIT
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Images.Reports;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>The hidden directory of an image: <c>info</c>, <c>map</c>, <c>snapshots/NAME.raw</c>,
/// <c>layers/N.raw</c> and, for qcow2, <c>unreferenced.raw</c>, all read-only.</summary>
internal static class ImageDetails
{
    /// <summary>Parts of the tables of names that are being read.</summary>
    private const int ReportBytes = 256 << 10;

    /// <summary>Makes the directory and all below it.</summary>
    public static FixedDirectory Create(TreeContext context, HostedImage image)
    {
        FixedDirectory directory = context.Nodes.Add(new FixedDirectory(context), "details");
        directory.Add("info", context.Nodes.Add(
            new TextFileNode(context, _ => ImageReportText.Lines(image.OpenReport()), ReportBytes), "info"));
        directory.Add(
            "map", context.Nodes.Add(new TextFileNode(context, pace => MapText.Lines(image, pace)), "map"));
        directory.Add("snapshots", context.Nodes.Add(new SnapshotsDirectory(context, image), "snapshots"));
        directory.Add("layers", context.Nodes.Add(new LayersDirectory(context, image), "layers"));
        UnreferencedSource unreferenced = new(image);
        directory.Add(
            "unreferenced.raw",
            context.Nodes.Add(new RawFileNode(context, image, unreferenced), "unreferenced"),
            () => unreferenced.Exists);
        return directory;
    }
}
