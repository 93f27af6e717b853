// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Access;

/// <summary>Clusters that were freed and wait for a flush before they can be used again.</summary>
internal sealed class FreedSpace(ImageGate gate, PendingFrees frees, MetadataFlush flush, int clusterBits)
{
    /// <summary>
    /// Freed clusters that wait for a flush are flushed from this many bytes on, so that a guest that discards and
    /// rewrites without ever flushing does not let the file grow without end.
    /// </summary>
    private const long PendingBytesMax = 256L << 20;

    /// <summary>Whether there are any.</summary>
    public bool IsPending
    {
        get
        {
            using (gate.Enter())
                return frees.Any;
        }
    }

    /// <summary>Frees what a flush can free.</summary>
    public void Reclaim()
    {
        using (gate.Enter())
        {
            if (frees.Any)
                flush.RunAndFree();
        }
    }

    /// <summary>Flushes where there are many.</summary>
    public void FlushMany()
    {
        using (gate.Enter())
        {
            if (frees.PendingClusters << clusterBits > PendingBytesMax)
                flush.Run();
        }
    }
}
