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
    /// <param name="caches">Its metadata.</param>
    /// <param name="keepsPlace">Whether discards keep the place of a cluster in the image.</param>
    public ActiveMap(ImageCore image, MetadataCaches caches, bool keepsPlace)
    {
        CheckedEntries entries = new(image);
        InFlightAllocations inFlight = new(image.Geometry, image.Gate, caches.Epochs);
        ReplacedEntries replaced = new(image.Geometry, caches, entries);
        Lookup = new ClusterLookup(image, caches, entries);
        Runs = new RunFinder(image, caches, Lookup);
        Hold = new WriteHold(image.Gate, caches.Epochs, inFlight);
        InPlace = new InPlaceLookup(image, caches, entries, Lookup, inFlight, Hold);
        WritableTables tables = new(image, caches, entries, inFlight, Hold);
        Allocations = new ClusterAllocations(image, caches, entries, replaced, inFlight, tables);
        Compressed = new CompressedAllocations(image, caches, entries, inFlight, tables, Allocations);
        Kept = keepsPlace ? new KeptDiscards(image, caches, Lookup, inFlight) : null;
        Zeroes = new ZeroedClusters(image, entries, Lookup, replaced, inFlight, tables, Kept);
        Cut = new DiskCut(image, caches, entries, replaced, tables);
    }

    public ClusterLookup Lookup { get; }

    public RunFinder Runs { get; }

    public WriteHold Hold { get; }

    public InPlaceLookup InPlace { get; }

    public ClusterAllocations Allocations { get; }

    public CompressedAllocations Compressed { get; }

    /// <summary>Discards that keep the place of a cluster; null where they give it up.</summary>
    public KeptDiscards? Kept { get; }

    public ZeroedClusters Zeroes { get; }

    public DiskCut Cut { get; }
}
