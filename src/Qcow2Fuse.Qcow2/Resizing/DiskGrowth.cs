// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Access;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Resizing;

/// <summary>Growing of the virtual disk, in the order that <see cref="Resizer.Resize"/> promises.</summary>
internal sealed class DiskGrowth(
    ImageCore image, ImageMetadata metadata, GuestZeroes zeroes, Preallocator preallocator, BitmapLife bitmaps,
    Flusher flusher)
{
    private readonly BlockDevice _data = image.Data;
    private readonly Qcow2Geometry _geometry = image.Geometry;
    private readonly ImageGate _gate = image.Gate;
    private readonly DiskSize _size = image.Size;

    /// <summary>Makes the disk larger. The lock for changes is held, and the gate is not.</summary>
    /// <param name="length">The new size in bytes.</param>
    /// <param name="entries">The L1 entries that it needs.</param>
    /// <param name="preallocation">What is done for the storage of new space.</param>
    public void Grow(long length, int entries, Preallocation preallocation)
    {
        long old = _size.Length;
        using (_gate.Enter())
        {
            if (entries > metadata.Tables.L1.Count)
                GrowL1(entries);
        }

        bool isRaw = image.IsRawExternal;
        if (isRaw && _data.Length < length)
            _data.Resize(length);
        _size.BeginGrowing(length);
        try
        {
            zeroes.Zero(old, length - old, mayUnmap: true);

            // A raw data file holds the whole disk, and its tables say so.
            if (preallocation == Preallocation.Off && isRaw)
                preallocation = Preallocation.Metadata;
            if (preallocation != Preallocation.Off)
                preallocator.Allocate(old, length, preallocation);
            flusher.Flush();
            using (_gate.Enter())
            {
                metadata.Durable.UpdateHeader(header => header with { Size = length });
                bitmaps.Resize(length);
                _size.Length = length;
            }
        }
        finally
        {
            _size.EndGrowing();
        }
    }

    /// <summary>Moves the L1 table to a larger place. The gate is held and released.</summary>
    private void GrowL1(int entries)
    {
        int clusters = (int)(_geometry.RoundUpToCluster(entries * 8L) >> _geometry.ClusterBits);
        HostOffset place = metadata.Allocator.Allocate(clusters).Start;
        try
        {
            MoveL1(place, clusters, entries);
        }
        catch (BlockException) when (!metadata.Durable.HasFailed)
        {
            // The header is known to point at the old table.
            metadata.Allocator.FreeUnlinked(place, clusters);
            throw;
        }
    }

    /// <summary>Copies the L1 table to a place that is allocated. The gate is held and released.</summary>
    private void MoveL1(HostOffset place, int clusters, int entries)
    {
        // The copy must not hold entries of tables that are not durable yet.
        metadata.Flush.BeginExclusiveWhenClean(() => metadata.Tables.L1);
        ResidentTable? larger = null;
        try
        {
            ResidentTable old = metadata.Tables.L1;
            int oldClusters = (int)(_geometry.RoundUpToCluster(old.Count * 8L) >> _geometry.ClusterBits);
            HostOffset oldPlace = old.Offset;
            larger = old.CopyTo(place, entries);
            larger.WriteAll((long)clusters << _geometry.ClusterBits);
            metadata.Durable.Barrier();
            metadata.Durable.UpdateHeader(header => header with { L1Size = entries, L1Offset = place.Value });
            metadata.Tables.ReplaceL1(larger);
            larger = null;
            metadata.Guard.Add(place, entries * 8L, MetadataKind.L1Table);
            if (oldClusters > 0)
                metadata.Frees.Add(oldPlace, oldClusters, metadata.Epochs.Current, isTable: true);
        }
        finally
        {
            larger?.Dispose();
            metadata.Flush.EndExclusive();
        }
    }
}
