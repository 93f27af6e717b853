// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// What an L2 entry pointed at before it was changed: checked before the change, and given up after it.
/// </summary>
/// <remarks>All methods are called with the image's gate held and do not release it.</remarks>
internal sealed class ReplacedEntries(Qcow2Geometry geometry, ImageMetadata metadata, CheckedEntries entries)
{
    private readonly Qcow2Geometry _geometry = geometry;

    /// <summary>
    /// Refuses to give up what an entry points at where that cannot be its cluster: a part of two clusters, metadata,
    /// or nothing. What lies there, somebody else's, would be freed and punched.
    /// </summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Corrupt"/>.</exception>
    public void CheckReleasable(L2Entry old, GuestOffset guest)
    {
        if (_geometry.DataIsExternal)
            return;
        if (old.IsCompressed)
        {
            CompressedExtent extent = CompressedExtent.Decode(old.Descriptor, _geometry);
            CheckInFile(extent.Host, guest);
            metadata.Guard.CheckData(extent.Host, extent.BytesMax, guest);
        }
        else if (old.HasHost)
        {
            HostOffset host = entries.CheckedHost(old, guest);
            CheckInFile(host, guest);
            metadata.Guard.CheckData(host, _geometry.ClusterSize, guest);
        }
    }

    /// <summary>Gives up the reference that an entry which was replaced in memory still has on disk.</summary>
    public void Release(L2Entry old)
    {
        if (_geometry.DataIsExternal)
            return;
        long epoch = metadata.Epochs.Current;
        if (old.IsCompressed)
        {
            CompressedExtent extent = CompressedExtent.Decode(old.Descriptor, _geometry);
            long first = extent.Host.Value >> _geometry.ClusterBits;
            long last = (extent.Host.Value + extent.BytesMax - 1) >> _geometry.ClusterBits;
            metadata.Frees.Add(
                new HostOffset(first << _geometry.ClusterBits), (int)(last - first + 1), epoch);
        }
        else if (old.HasHost)
        {
            metadata.Frees.Add(old.Host, 1, epoch);
        }
    }

    private void CheckInFile(HostOffset host, GuestOffset guest)
    {
        if (host.Value >= metadata.Allocator.UsedEnd)
            throw entries.Corrupt($"what is mapped to {host.Value} lies beyond the end of the file", guest);
    }
}
