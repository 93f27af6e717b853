// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Discards that give space back to the host and keep its place in the image.</summary>
/// <remarks>All methods are called with the image's gate held.</remarks>
internal sealed class KeptDiscards(
    ImageCore image, OverlapGuard guard, HostSpace space, MetadataFlush flush, ClusterLookup lookup,
    InFlightAllocations inFlight)
{
    private readonly Qcow2Geometry _geometry = image.Geometry;
    private readonly ImageGate _gate = image.Gate;
    private readonly Queue<KeptDiscard> _kept = new();

    /// <summary>
    /// Gives ranges back to the host whose zero entries are durable by now. One that was written again meanwhile is
    /// left alone; nobody can begin to write one while it is being given back. The gate is held and released.
    /// </summary>
    public void Punch()
    {
        _gate.AssertHeld();
        while (_kept.TryPeek(out KeptDiscard discard) && discard.Flush <= flush.Completed)
        {
            _kept.Dequeue();
            if (!IsStillKept(discard))
                continue;
            guard.CheckData(discard.Host, discard.Length, discard.Guest);
            ClusterAllocation holding = inFlight.Begin(discard.Guest, (int)discard.Length);
            try
            {
                space.GiveBack(discard.Host.Value, discard.Length);
            }
            finally
            {
                inFlight.End(holding);
            }
        }
    }

    /// <summary>Has part of a cluster given back once the flush that makes its zero entry durable has ended.</summary>
    public void Add(GuestOffset guest, HostOffset host, long length) =>
        _kept.Enqueue(new KeptDiscard(guest, host, length, flush.Next));

    /// <summary>
    /// Whether the range still reads as zeroes, has its place, which no snapshot has come to share, and is not being
    /// written. The gate is not released between the look and the answer.
    /// </summary>
    private bool IsStillKept(KeptDiscard discard)
    {
        if (!lookup.TryGetSlice(discard.Guest, out CachedTable slice))
            return false;
        using (slice)
        {
            L2Entry entry = L2Entry.Read(slice.Bytes, _geometry.IndexInSlice(discard.Guest), _geometry);
            ReadMapping now = lookup.LookupIn(slice.Bytes, discard.Guest, discard.Length);
            return entry.HasHost
                && entry.IsCopied
                && entry.Host + _geometry.InCluster(discard.Guest) == discard.Host
                && now.Kind == MappingKind.Zero
                && now.Length >= discard.Length
                && !inFlight.Touches(discard.Guest, discard.Length);
        }
    }

    /// <summary>Part of a cluster that reads as zeroes.</summary>
    /// <param name="Guest">Where it begins.</param>
    /// <param name="Host">Where that lies.</param>
    /// <param name="Length">Bytes, within one cluster.</param>
    /// <param name="Flush">The flush that makes its entry durable.</param>
    private readonly record struct KeptDiscard(GuestOffset Guest, HostOffset Host, long Length, long Flush);
}
