// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>Host clusters that lost a reference in memory.</summary>
/// <param name="Start">Host offset of the first cluster.</param>
/// <param name="Clusters">How many.</param>
/// <param name="Epoch">The epoch in which they were unlinked.</param>
/// <param name="IsTable">They held an L2 or L1 table, slices of which may be cached.</param>
internal readonly record struct FreedRun(HostOffset Start, int Clusters, long Epoch, bool IsTable);

/// <summary>
/// References that are gone in memory but may still be on disk. Each keeps its refcount, so that the cluster is not
/// handed out again, until a flush has made its removal durable.
/// </summary>
internal sealed class PendingFrees
{
    private readonly int _clusterBits;
    private List<FreedRun> _pending = [];
    private List<FreedRun> _frozen = [];

    /// <summary>Flushed, but operations from before the removal may still be under way.</summary>
    private readonly Queue<FreedRun> _durable = new();

    public PendingFrees(int clusterBits) => _clusterBits = clusterBits;

    /// <summary>Clusters that wait for a flush.</summary>
    public long PendingClusters { get; private set; }

    public bool Any => _pending.Count > 0 || _frozen.Count > 0 || _durable.Count > 0;

    /// <summary>Adds a run, joined to the one before where they touch.</summary>
    public void Add(HostOffset start, int clusters, long epoch, bool isTable = false)
    {
        PendingClusters += clusters;
        if (_pending.Count > 0)
        {
            FreedRun last = _pending[^1];
            if (!isTable && !last.IsTable && last.Epoch == epoch && last.Clusters + clusters <= 1 << 20
                && last.Start.Value + ((long)last.Clusters << _clusterBits) == start.Value)
            {
                _pending[^1] = last with { Clusters = last.Clusters + clusters };
                return;
            }
        }

        _pending.Add(new FreedRun(start, clusters, epoch, isTable));
    }

    /// <summary>Sets aside the removals that the flush which begins now makes durable.</summary>
    public void Freeze()
    {
        (_pending, _frozen) = (_frozen, _pending);
        PendingClusters = 0;
    }

    /// <summary>The flush has made the frozen removals durable.</summary>
    public void FrozenAreDurable()
    {
        foreach (FreedRun run in _frozen)
            _durable.Enqueue(run);
        _frozen.Clear();
    }

    /// <summary>The flush did not get that far.</summary>
    public void Thaw()
    {
        foreach (FreedRun run in _frozen)
        {
            PendingClusters += run.Clusters;
            _pending.Add(run);
        }

        _frozen.Clear();
    }

    /// <summary>Takes the oldest durable run, if there is one.</summary>
    public bool TryTakeDurable(out FreedRun run) => _durable.TryDequeue(out run);

    /// <summary>How many durable runs there are.</summary>
    public int DurableCount => _durable.Count;

    /// <summary>Puts a run back that could not be freed yet.</summary>
    public void PutBackDurable(FreedRun run) => _durable.Enqueue(run);
}
