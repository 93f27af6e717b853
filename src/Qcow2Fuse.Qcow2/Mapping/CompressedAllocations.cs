// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Qcow2.Compression;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Compressed clusters: allocated, packed and published like any other.</summary>
/// <remarks>The gate is held, and may be released while a table is loaded.</remarks>
internal sealed class CompressedAllocations(
    ImageCore image, PackedClusters packed, CheckedEntries entries, InFlightAllocations inFlight,
    WritableTables tables, ClusterAllocations allocations)
{
    private readonly Qcow2Geometry _geometry = image.Geometry;
    private readonly ImageGate _gate = image.Gate;

    /// <summary>
    /// Makes the whole cluster at <paramref name="guest"/> the compressed bytes <paramref name="bytes"/>, whatever it
    /// was before. Waits while an allocation under way touches it. The bytes are in the cache of
    /// <see cref="PackedBytes"/> when this returns, which a flush writes before the entry.
    /// </summary>
    /// <returns>The new descriptor; 0 where the place cannot be described and nothing has changed.</returns>
    public ulong Link(GuestOffset guest, ReadOnlySpan<byte> bytes, CompressedClusters kept)
    {
        _gate.AssertHeld();
        ClusterAllocation allocation = BeginWhole(guest);
        bool linked = false;
        try
        {
            if (!packed.TryPack(bytes, out ulong descriptor))
                return 0;
            allocation.Descriptor = descriptor;

            // Other bytes may have had the same descriptor; nobody reads them any more.
            kept.Forget(descriptor);
            allocations.Link(allocation);
            linked = true;
            return descriptor;
        }
        finally
        {
            if (!linked)
                Abort(allocation);
        }
    }

    private ClusterAllocation BeginWhole(GuestOffset guest)
    {
        while (true)
        {
            using CachedTable slice = tables.GetSliceForWrite(guest);
            if (inFlight.Touches(guest, _geometry.ClusterSize))
            {
                inFlight.WaitForOne();
                continue;
            }

            entries.TypeOf(L2Entry.Read(slice.Bytes, _geometry.IndexInSlice(guest), _geometry), 0, guest);
            ClusterAllocation allocation = inFlight.Begin(guest, _geometry.ClusterSize);
            allocation.CowStart = allocation.Start;
            allocation.CowEnd = allocation.End;
            return allocation;
        }
    }

    private void Abort(ClusterAllocation allocation)
    {
        try
        {
            if (allocation.Descriptor != 0)
                packed.Unpack(allocation.Descriptor);
        }
        finally
        {
            inFlight.End(allocation);
        }
    }
}
