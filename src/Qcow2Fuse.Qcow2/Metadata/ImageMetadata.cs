// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>The metadata of an open image, but for its header: its parts, made one on top of the other.</summary>
/// <remarks>
/// All of them are under the image's gate. Whoever needs one or two of the parts is given those; who needs many asks
/// here for each of them.
/// </remarks>
internal sealed class ImageMetadata : IDisposable
{
    public ImageMetadata(ImageCore image, FormatOpenArguments arguments)
    {
        Qcow2Geometry geometry = image.Geometry;
        Memory = arguments.Memory;

        // A cache full of tables that were changed asks for a flush, which is made on top of it.
        MetadataFlush? flush = null;
        Tables = new MetadataTables(image, arguments, makeRoom: () => flush!.MakeRoom());
        Refcounts = new Refcounts(image.File, geometry, Tables.RefcountTable, Tables.RefcountBlocks);
        Guard = new OverlapGuard(image.Name, geometry, Memory);
        Frees = new PendingFrees(geometry.ClusterBits);
        if (arguments is { ReadOnly: false, Compress: not CompressedWrites.Off })
            PackedBytes = new PackedBytes(image);
        Durable = new DurableFile(image, arguments.DataFile, PackedBytes);
        Survey = new GuardSurvey(image, Tables, Guard, Durable);
        Space = new HostSpace(image, Refcounts, Guard, arguments.Report);
        FreeHints hints = new();
        ClusterFreeing freeing = new(
            geometry, Tables, Refcounts, Frees, Epochs, Guard, hints, PackedBytes,
            arguments.Discard == DiscardMode.Ignore ? null : Space);
        flush = new MetadataFlush(image, Tables, Durable, PackedBytes, Frees, freeing);
        Flush = flush;
        RefcountTableGrowth growth = new(image, Tables, Refcounts, Guard, Durable, Frees, Epochs, Flush);
        Allocator = new ClusterAllocator(image, Refcounts, Guard, hints, Flush, growth);
        if (PackedBytes is not null)
            Packed = new PackedClusters(image, Refcounts, Allocator, hints, PackedBytes);
    }

    /// <summary>Where memory for tables is taken from.</summary>
    public MemoryBudget Memory { get; }

    public MetadataTables Tables { get; }

    public Refcounts Refcounts { get; }

    /// <summary>Where metadata lies; knows nothing before <see cref="GuardSurvey.Ensure"/>.</summary>
    public OverlapGuard Guard { get; }

    public GuardSurvey Survey { get; }

    public OperationEpochs Epochs { get; } = new();

    public PendingFrees Frees { get; }

    public DurableFile Durable { get; }

    public HostSpace Space { get; }

    public MetadataFlush Flush { get; }

    public ClusterAllocator Allocator { get; }

    /// <summary>Where compressed clusters are put; null where they are not written.</summary>
    public PackedClusters? Packed { get; }

    /// <summary>The bytes of compressed clusters that the file may not have yet; null where there are none.</summary>
    public PackedBytes? PackedBytes { get; }

    public void Dispose()
    {
        Guard.Dispose();
        Tables.Dispose();
        PackedBytes?.Dispose();
    }
}
