// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// The allocations under way. Many run at once; a request waits only for one that touches its own clusters.
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
    private readonly List<ClusterAllocation> _active = new(64);
    private readonly Stack<ClusterAllocation> _spare = new(64);

    public InFlightAllocations(Qcow2Geometry geometry, ImageGate gate)
    {
        _geometry = geometry;
        _gate = gate;
    }

    /// <summary>Whether any allocation is under way.</summary>
    public bool Any => _active.Count > 0;

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

    /// <summary>A new allocation under way, its fields to be filled before the gate is released.</summary>
    public ClusterAllocation Add()
    {
        _gate.AssertHeld();
        ClusterAllocation allocation = _spare.Count > 0 ? _spare.Pop() : new ClusterAllocation();
        _active.Add(allocation);
        return allocation;
    }

    /// <summary>Ends it and wakes whoever waits; the object may be used for another one at once.</summary>
    public void Remove(ClusterAllocation allocation)
    {
        _gate.AssertHeld();
        _active.Remove(allocation);
        _spare.Push(allocation);
        _gate.PulseAll();
    }
}
