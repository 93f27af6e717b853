// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// The parts that translate the offsets of the active disk and change the translation: made one on top of the other.
/// </summary>
/// <remarks>All of them are under the image's gate. Whoever needs a part is given that part.</remarks>
internal sealed class ActiveMap
{
    /// <param name="image">The image.</param>
    /// <param name="metadata">Its metadata.</param>
    /// <param name="keepsPlace">Whether discards keep the place of a cluster in the image.</param>
    public ActiveMap(ImageCore image, ImageMetadata metadata, bool keepsPlace)
    {
        CheckedEntries entries = new(image);
        InFlightAllocations inFlight = new(image.Geometry, image.Gate, metadata.Epochs);
        ReplacedEntries replaced = new(image.Geometry, metadata, entries);
        Lookup = new ClusterLookup(image, metadata.Tables, entries);
        Runs = new RunFinder(image, metadata.Tables, Lookup);
        Hold = new WriteHold(image.Gate, metadata.Epochs, inFlight);
        InPlace = new InPlaceLookup(
            image, metadata.Tables, metadata.Guard, entries, Lookup, inFlight, Hold);
        WritableTables tables = new(image, metadata, entries, inFlight, Hold);
        Allocations = new ClusterAllocations(image, metadata, entries, replaced, inFlight, tables);
        if (metadata.Packed is { } packed)
            Compressed = new CompressedAllocations(image, packed, entries, inFlight, tables, Allocations);
        if (keepsPlace)
            Kept = new KeptDiscards(image, metadata.Guard, metadata.Space, metadata.Flush, Lookup, inFlight);
        Zeroes = new ZeroedClusters(image, entries, Lookup, replaced, inFlight, tables, Kept);
        Cut = new DiskCut(image, metadata, entries, replaced, tables);
    }

    public ClusterLookup Lookup { get; }

    public RunFinder Runs { get; }

    public WriteHold Hold { get; }

    public InPlaceLookup InPlace { get; }

    public ClusterAllocations Allocations { get; }

    /// <summary>Allocations of compressed clusters; null where they are not written.</summary>
    public CompressedAllocations? Compressed { get; }

    /// <summary>Discards that keep the place of a cluster; null where they give it up.</summary>
    public KeptDiscards? Kept { get; }

    public ZeroedClusters Zeroes { get; }

    public DiskCut Cut { get; }
}
