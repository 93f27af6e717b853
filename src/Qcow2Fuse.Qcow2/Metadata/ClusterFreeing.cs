// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>Freeing of clusters whose last reference is durably gone.</summary>
/// <remarks>
/// Called with the image's gate held, by whoever keeps flushes from starting; the gate is released while refcounts are
/// loaded and while space is given back to the host.
/// </remarks>
internal sealed class ClusterFreeing
{
    private readonly Qcow2Geometry _geometry;
    private readonly MetadataTables _tables;
    private readonly Refcounts _refcounts;
    private readonly PendingFrees _frees;
    private readonly OperationEpochs _epochs;
    private readonly OverlapGuard _guard;
    private readonly FreeHints _hints;
    private readonly PackedBytes? _packed;
    private readonly HostSpace? _space;

    /// <param name="geometry">The geometry of the image.</param>
    /// <param name="tables">Drops tables that are freed.</param>
    /// <param name="refcounts">What counts clusters.</param>
    /// <param name="frees">What is to be freed.</param>
    /// <param name="epochs">Whether somebody still uses it.</param>
    /// <param name="guard">Knows which clusters hold metadata.</param>
    /// <param name="hints">Where the allocator looks for free clusters.</param>
    /// <param name="packed">Fills clusters with compressed ones, or null.</param>
    /// <param name="space">Gives what is freed back to the host; null where that is not wanted.</param>
    public ClusterFreeing(
        Qcow2Geometry geometry, MetadataTables tables, Refcounts refcounts, PendingFrees frees, OperationEpochs epochs,
        OverlapGuard guard, FreeHints hints, PackedBytes? packed, HostSpace? space)
    {
        _geometry = geometry;
        _tables = tables;
        _refcounts = refcounts;
        _frees = frees;
        _epochs = epochs;
        _guard = guard;
        _hints = hints;
        _packed = packed;
        _space = space;
    }

    /// <summary>Frees the clusters whose removal is durable and that no operation uses any more.</summary>
    public void FreeDurable()
    {
        for (int left = _frees.DurableCount; left > 0; left--)
        {
            if (!_frees.TryTakeDurable(out FreedRun run))
                return;
            if (!_epochs.HasEnded(run.Epoch))
                _frees.PutBackDurable(run);
            else
                Free(run);
        }
    }

    private void Free(FreedRun run)
    {
        long first = run.Start.Value >> _geometry.ClusterBits;
        if (run.IsTable)
        {
            for (long offset = 0; offset < (long)run.Clusters << _geometry.ClusterBits; offset += _geometry.SliceBytes)
                _tables.L2.Drop(run.Start.Value + offset);
        }
        else
        {
            // In a damaged image two entries may have shared it, and it has become a table since the first one went.
            _guard.CheckGivenUp(first, run.Clusters);
        }

        int done = 0;
        try
        {
            while (done < run.Clusters)
            {
                int last = 0;
                while (done + last < run.Clusters && IsLastReference(first + done + last))
                    last++;
                if (last > 0)
                    Punch(first + done, last);
                for (int end = done + Math.Max(last, 1); done < end; done++)
                {
                    // A damaged image may refer to a cluster that it does not count: then there is nothing to free.
                    if (_refcounts.Get(first + done) != 0 && _refcounts.Decrement(first + done) == 0)
                    {
                        if (run.IsTable)
                            _guard.Remove(new HostOffset((first + done) << _geometry.ClusterBits), 1);
                        _hints.NoteFree(first + done);
                    }
                }
            }
        }
        catch when (done < run.Clusters)
        {
            _frees.PutBackDurable(run with
            {
                Start = run.Start + ((long)done << _geometry.ClusterBits),
                Clusters = run.Clusters - done,
            });
            throw;
        }
    }

    /// <summary>Whether the reference that goes is the last one; then nothing is packed into the cluster any more.
    /// </summary>
    private bool IsLastReference(long cluster)
    {
        if (_refcounts.Get(cluster) != 1)
            return false;
        _packed?.Forget(cluster);
        return true;
    }

    /// <summary>
    /// Gives clusters back to the host. They are still counted, so nobody can allocate them before this returns.
    /// </summary>
    private void Punch(long cluster, int count) =>
        _space?.GiveBack(cluster << _geometry.ClusterBits, (long)count << _geometry.ClusterBits);
}
