// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Access;

/// <summary>Guest data in an external data file, where every cluster has its own place for ever.</summary>
internal sealed class ExternalData(
    ImageCore image, DurableFile durable, OperationEpochs epochs, InPlaceLookup inPlace, GuestData guestData)
{
    private readonly BlockDevice _data = image.Data;

    /// <summary>What the data file knows of holes in a mapped range.</summary>
    public Extent GetExtent(long offset, long length)
    {
        if (offset >= _data.Length)
            return new Extent(offset, length, ExtentKind.Zero, -1, Depth: 0);
        length = Math.Min(length, _data.Length - offset);
        Extent extent = _data.GetExtent(offset, length);
        return extent.Kind == ExtentKind.Data
            ? new Extent(offset, extent.Length, ExtentKind.Data, offset, Depth: 0)
            : new Extent(offset, extent.Length, ExtentKind.Zero, -1, Depth: 0);
    }

    /// <summary>
    /// Zeroes the first part of a range where it lies. For mapped clusters that changes no metadata, gives the space
    /// back to the host, and a raw data file (autoclear bit 1) stays what the guest sees. There the others are zeroed
    /// in place too, as their tables mean nothing to who reads the data file alone.
    /// </summary>
    /// <param name="offset">Where the range begins.</param>
    /// <param name="length">Its length.</param>
    /// <param name="mayUnmap">The space is given back to the host.</param>
    /// <param name="isUnallocated">Whether the part is not mapped: what a backing file holds shows through it.</param>
    /// <returns>How long the part is.</returns>
    public long ZeroInPlace(long offset, long length, bool mayUnmap, out bool isUnallocated)
    {
        ReadMapping mapping;
        long epoch;
        using (image.Gate.Enter())
        {
            durable.ThrowIfFailed();
            mapping = inPlace.LookupForZero(new GuestOffset(offset), length);
            epoch = epochs.Enter();
        }

        try
        {
            if (mapping.Kind == MappingKind.Data && guestData.IsEncrypted)
                guestData.WriteZeroBytes(new GuestOffset(offset), mapping.Host, mapping.Length);
            else if (mapping.Kind == MappingKind.Data)
                _data.WriteZeroes(offset, mapping.Length, mayUnmap);
            else if (image.IsRawExternal && offset < _data.Length)
                _data.WriteZeroes(offset, Math.Min(mapping.Length, _data.Length - offset), mayUnmap);
        }
        finally
        {
            epochs.Exit(epoch);
        }

        isUnallocated = mapping.Kind == MappingKind.Unallocated;
        return mapping.Length;
    }
}
