// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Qcow2.Compression;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Compressed clusters: allocated, packed and published like any other.</summary>
internal sealed partial class ClusterMap
{
    /// <summary>
    /// Makes the whole cluster at <paramref name="guest"/> the compressed bytes <paramref name="packed"/>, whatever it
    /// was before. Waits while an allocation under way touches it. The bytes are in the cache of
    /// <see cref="PackedClusters"/> when this returns, which a flush writes before the entry.
    /// </summary>
    /// <returns>The new descriptor; 0 where the place cannot be described and nothing has changed.</returns>
    public ulong LinkCompressed(GuestOffset guest, ReadOnlySpan<byte> packed, CompressedClusters kept)
    {
        _gate.AssertHeld();
        ClusterAllocation allocation = BeginWhole(guest);
        bool linked = false;
        try
        {
            if (!_caches.Packed!.TryPack(packed, out ulong descriptor))
                return 0;
            allocation.Descriptor = descriptor;

            // Other bytes may have had the same descriptor; nobody reads them any more.
            kept.Forget(descriptor);
            Link(allocation);
            linked = true;
            return descriptor;
        }
        finally
        {
            if (!linked)
                AbortCompressed(allocation);
        }
    }

    private ClusterAllocation BeginWhole(GuestOffset guest)
    {
        while (true)
        {
            using CachedTable slice = GetSliceForWrite(guest);
            if (InFlight.Touches(guest, _geometry.ClusterSize))
            {
                InFlight.WaitForOne();
                continue;
            }

            TypeOf(L2Entry.Read(slice.Bytes, _geometry.IndexInSlice(guest), _geometry), 0, guest);
            ClusterAllocation allocation = Begin(guest, _geometry.ClusterSize);
            allocation.CowStart = allocation.Start;
            allocation.CowEnd = allocation.End;
            return allocation;
        }
    }

    private void AbortCompressed(ClusterAllocation allocation)
    {
        try
        {
            if (allocation.Descriptor != 0)
                _caches.Packed!.Unpack(allocation.Descriptor);
        }
        finally
        {
            End(allocation);
        }
    }
}
