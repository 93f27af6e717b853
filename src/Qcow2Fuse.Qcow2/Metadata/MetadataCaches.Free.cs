// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>Freeing of clusters whose last reference is durably gone.</summary>
internal sealed partial class MetadataCaches
{
    private readonly Action<ImageMessage> _report;
    private bool _toldOfDiscard;

    /// <summary>
    /// Flushes and frees what waits for it, giving operations under way time to end; for where space has run out.
    /// </summary>
    public void FlushAndFree()
    {
        const int MillisecondsMax = 1000;
        _gate.AssertHeld();
        Flush();
        for (int i = 0; i < MillisecondsMax && Frees.DurableCount > 0; i++)
        {
            _gate.Wait(milliseconds: 1);
            BeginExclusive();
            try
            {
                FreeDurable();
            }
            finally
            {
                EndExclusive();
            }
        }
    }

    /// <summary>Frees the clusters whose removal is durable and that no operation uses any more.</summary>
    private void FreeDurable()
    {
        for (int left = Frees.DurableCount; left > 0; left--)
        {
            if (!Frees.TryTakeDurable(out FreedRun run))
                return;
            if (!Epochs.HasEnded(run.Epoch))
                Frees.PutBackDurable(run);
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
                L2.Drop(run.Start.Value + offset);
        }
        else
        {
            // In a damaged image two entries may have shared it, and it has become a table since the first one went.
            Guard.CheckGivenUp(first, run.Clusters);
        }

        int done = 0;
        try
        {
            while (done < run.Clusters)
            {
                int last = 0;
                while (done + last < run.Clusters && IsLastReference(first + done + last))
                    last++;
                if (last > 0 && _punch)
                    Punch(first + done, last);
                for (int end = done + Math.Max(last, 1); done < end; done++)
                {
                    // A damaged image may refer to a cluster that it does not count: then there is nothing to free.
                    if (Refcounts.Get(first + done) != 0 && Refcounts.Decrement(first + done) == 0)
                    {
                        if (run.IsTable)
                            Guard.Remove(new HostOffset((first + done) << _geometry.ClusterBits), 1);
                        Allocator.NoteFree(first + done);
                    }
                }
            }
        }
        catch when (done < run.Clusters)
        {
            Frees.PutBackDurable(run with
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
        if (Refcounts.Get(cluster) != 1)
            return false;
        Packed?.Forget(cluster);
        return true;
    }

    /// <summary>
    /// Gives clusters back to the host. They are still counted, so nobody can allocate them before this returns.
    /// </summary>
    private void Punch(long cluster, int count) =>
        GiveBack(cluster << _geometry.ClusterBits, (long)count << _geometry.ClusterBits);

    /// <summary>
    /// Gives a range back to the host, as far as the file reaches. Nobody relies on it: where it fails the space is
    /// kept, which the user is told once. The gate is held and released.
    /// </summary>
    public void GiveBack(long start, long length)
    {
        length = Math.Min(length, _file.Length - start);
        if (length <= 0)
            return;
        using (_gate.Release())
        {
            try
            {
                _file.Discard(start, length);
            }
            catch (BlockException e)
            {
                if (!Interlocked.Exchange(ref _toldOfDiscard, true))
                {
                    _report(new ImageMessage(
                        $"{_file.Name}: unused space is not given back to the host: {e.Message}", null));
                }
            }
        }
    }
}
