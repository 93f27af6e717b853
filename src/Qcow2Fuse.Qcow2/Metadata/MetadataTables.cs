// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>The tables of an image in memory: L1 and refcount table as a whole, all others in slices.</summary>
/// <remarks>
/// Used with the image's gate held. When what is changed here becomes durable is the business of
/// <see cref="MetadataFlush"/>.
/// </remarks>
internal sealed class MetadataTables : IDisposable
{
    /// <summary>Slices for 8 GiB of a disk with clusters of 64 KiB, or all there are of a smaller one.</summary>
    private const long PopulatedToWrite = 1 << 20;

    /// <summary>The same for an image that is only read, such as each layer of a long chain.</summary>
    private const long PopulatedToRead = 256 << 10;

    /// <param name="image">The image.</param>
    /// <param name="arguments">How it is opened.</param>
    /// <param name="makeRoom">Called when all slices of L2 tables are dirty: writes them, and may release the
    /// gate.</param>
    public MetadataTables(ImageCore image, FormatOpenArguments arguments, Action makeRoom)
    {
        BlockDevice file = image.File;
        Qcow2Header header = image.Header.Current;
        Qcow2Geometry geometry = image.Geometry;
        L1 = ResidentTable.Load(file, new HostOffset(header.L1Offset), header.L1Size, arguments.Memory);
        try
        {
            // Who only reads counts nothing, and can read an image whose refcounts are lost.
            RefcountTable = ResidentTable.Load(
                file, new HostOffset(header.RefcountTableOffset),
                arguments.ReadOnly ? 0 : (int)(((long)header.RefcountTableClusters << header.ClusterBits) / 8),
                arguments.Memory);
        }
        catch
        {
            L1.Dispose();
            throw;
        }

        Qcow2Options options = arguments.For<Qcow2Options>();
        L2 = new TableCache(file, geometry.SliceBytes, CacheSizes.L2Slices(geometry, header.Size, options), image.Gate,
            DirtyEviction.AskOwner, makeRoom);
        RefcountBlocks = new TableCache(file, geometry.SliceBytes, CacheSizes.RefcountSlices(geometry, options),
            image.Gate, DirtyEviction.WriteVictim);
        if (options.PopulateCaches)
        {
            L2.Populate(arguments.ReadOnly ? PopulatedToRead : PopulatedToWrite);
            if (!arguments.ReadOnly)
                RefcountBlocks.Populate(PopulatedToWrite);
        }
    }

    /// <summary>The active L1 table.</summary>
    public ResidentTable L1 { get; private set; }

    /// <summary>Slices of L2 tables.</summary>
    public TableCache L2 { get; }

    /// <summary>The refcount table; empty in an image that is only read.</summary>
    public ResidentTable RefcountTable { get; private set; }

    /// <summary>Slices of refcount blocks.</summary>
    public TableCache RefcountBlocks { get; }

    /// <summary>
    /// Replaces the L1 table by a larger copy that is durable at its new place and that the header points at. What
    /// changed since the copy was made is still to be written, as before.
    /// </summary>
    public void ReplaceL1(ResidentTable larger)
    {
        ResidentTable old = L1;
        larger.Adopt(old);
        L1 = larger;
        old.Dispose();
    }

    /// <summary>
    /// Takes another L1 table, which is durable and which the header points at, in place of the active one, nothing of
    /// which is waiting to be written. Called between <see cref="MetadataFlush.BeginExclusive"/> and
    /// <see cref="MetadataFlush.EndExclusive"/>.
    /// </summary>
    public void SwitchL1(ResidentTable other)
    {
        if (L1.HasDirty || L1.HasFrozen)
            throw new InvalidOperationException("The L1 table still has changes to be written.");
        ResidentTable old = L1;
        L1 = other;
        old.Dispose();
    }

    /// <summary>
    /// Replaces the refcount table by a larger copy that is durable at its new place and that the header points at.
    /// Nobody uses the old one any more.
    /// </summary>
    public void ReplaceRefcountTable(ResidentTable larger)
    {
        ResidentTable old = RefcountTable;
        RefcountTable = larger;
        old.Dispose();
    }

    /// <summary>Gives up cached tables that were not used since the last call, and their memory.</summary>
    public void DropIdle()
    {
        L2.DropIdle();
        RefcountBlocks.DropIdle();
    }

    public void Dispose()
    {
        L1.Dispose();
        RefcountTable.Dispose();
        L2.Dispose();
        RefcountBlocks.Dispose();
    }
}
