// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// The allocations under way, of clusters for data and of an L2 table. Those for data run many at once; a request waits
/// only for one that touches its own clusters.
/// </summary>
/// <remarks>
/// Two requests may fill different subclusters of one mapped cluster at the same time. Any other two that share a
/// cluster must not meet: the second would copy data that the first is about to replace, or allocate again.
/// All methods are called with the image's gate held.
/// </remarks>
internal sealed class InFlightAllocations
{
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly OperationEpochs _epochs;
    private readonly List<ClusterAllocation> _active = new(64);
    private readonly Stack<ClusterAllocation> _spare = new(64);

    public InFlightAllocations(Qcow2Geometry geometry, ImageGate gate, OperationEpochs epochs)
    {
        _geometry = geometry;
        _gate = gate;
        _epochs = epochs;
    }

    /// <summary>Whether any allocation is under way, also of a table.</summary>
    public bool Any => _active.Count > 0 || IsCreatingTable;

    /// <summary>Whether an L2 table is being created.</summary>
    public bool IsCreatingTable { get; private set; }

    /// <summary>
    /// Shortens a write at <paramref name="guest"/> to what no allocation under way forbids; 0 when it has to wait
    /// from its first byte on.
    /// </summary>
    public long Clip(GuestOffset guest, long length)
    {
        _gate.AssertHeld();
        foreach (ClusterAllocation other in _active)
        {
            long end = guest.Value + length;
            if (other.End.Value <= _geometry.ClusterStart(guest).Value
                || other.Start.Value >= _geometry.RoundUpToCluster(end))
                continue;
            if (other.InPlace
                && (other.CowEnd.Value <= _geometry.RoundDownToSubcluster(guest.Value)
                    || other.CowStart.Value >= _geometry.RoundUpToSubcluster(end)))
                continue;
            if (other.Start.Value <= guest.Value)
                return 0;
            length = Math.Min(length, other.Start - guest);
        }

        return length;
    }

    /// <summary>
    /// Whether any allocation under way touches the clusters of the range: whoever changes whole entries waits for it.
    /// </summary>
    public bool Touches(GuestOffset guest, long length)
    {
        _gate.AssertHeld();
        long start = _geometry.ClusterStart(guest).Value;
        long end = _geometry.RoundUpToCluster(guest.Value + length);
        foreach (ClusterAllocation other in _active)
        {
            if (other.Start.Value < end && other.End.Value > start)
                return true;
        }

        return false;
    }

    /// <summary>Releases the gate until an allocation has ended.</summary>
    public void WaitForOne() => _gate.Wait();

    /// <summary>
    /// Begins an allocation of the clusters of a request, in the current epoch. Where they lie and what is copied is to
    /// be filled in before the gate is released.
    /// </summary>
    public ClusterAllocation Begin(GuestOffset guest, int length)
    {
        _gate.AssertHeld();
        ClusterAllocation allocation = _spare.Count > 0 ? _spare.Pop() : new ClusterAllocation();
        _active.Add(allocation);
        allocation.Start = _geometry.ClusterStart(guest);
        allocation.End = new GuestOffset(_geometry.RoundUpToCluster(guest.Value + length));
        allocation.Clusters = (int)((allocation.End - allocation.Start) >> _geometry.ClusterBits);
        allocation.RequestStart = guest;
        allocation.RequestEnd = guest + length;
        allocation.InPlace = false;
        allocation.IsVirgin = false;
        allocation.Descriptor = 0;
        allocation.Epoch = _epochs.Enter();
        return allocation;
    }

    /// <summary>Ends it and wakes whoever waits; the object may be used for another one at once.</summary>
    public void End(ClusterAllocation allocation)
    {
        _gate.AssertHeld();
        _epochs.Exit(allocation.Epoch);
        _active.Remove(allocation);
        _spare.Push(allocation);
        _gate.PulseAll();
    }

    /// <summary>Says that an L2 table is being created, of which nobody creates another meanwhile.</summary>
    public void BeginTable()
    {
        _gate.AssertHeld();
        IsCreatingTable = true;
    }

    /// <summary>Says that none is being created any more, and wakes whoever waits.</summary>
    public void EndTable()
    {
        _gate.AssertHeld();
        IsCreatingTable = false;
        _gate.PulseAll();
    }
}
