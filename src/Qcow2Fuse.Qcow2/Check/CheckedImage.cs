// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>An image that is checked, and what in it has been counted so far.</summary>
internal sealed class CheckedImage : IDisposable
{
    private readonly CheckFindings _findings;

    /// <param name="file">The image file.</param>
    /// <param name="findings">Where references are noted that cannot be.</param>
    /// <param name="countBytesMax">Memory to take for counts at most.</param>
    /// <param name="memory">Where that is taken from.</param>
    /// <exception cref="BlockException">The header is invalid.</exception>
    public CheckedImage(BlockDevice file, CheckFindings findings, long countBytesMax, MemoryBudget memory)
    {
        File = file;
        _findings = findings;
        Reader = new MetadataReader(file);
        FileLength = file.Length;
        Header = Qcow2HeaderReader.Read(file);
        Geometry = new Qcow2Geometry(Header);
        FileClusters = Geometry.RoundUpToCluster(FileLength) >> Geometry.ClusterBits;
        Counts = new ReferenceCounts(countBytesMax, file.Name, memory);
    }

    /// <summary>The image file.</summary>
    public BlockDevice File { get; }

    /// <summary>Reads tables of it.</summary>
    public MetadataReader Reader { get; }

    /// <summary>Its length in bytes when the check began.</summary>
    public long FileLength { get; }

    /// <summary>Clusters that begin inside the file.</summary>
    public long FileClusters { get; }

    /// <summary>Its header.</summary>
    public Qcow2Header Header { get; }

    /// <summary>What follows from that.</summary>
    public Qcow2Geometry Geometry { get; }

    /// <summary>Bytes of a cluster.</summary>
    public int ClusterSize => Geometry.ClusterSize;

    /// <summary>What is referenced how often.</summary>
    public ReferenceCounts Counts { get; }

    /// <inheritdoc/>
    public void Dispose() => Counts.Dispose();

    /// <summary>What a use of a cluster is called in findings.</summary>
    public static string NameOf(ClusterUse use) => use switch
    {
        ClusterUse.Header => "header",
        ClusterUse.RefcountTable => "refcount table",
        ClusterUse.RefcountBlock => "refcount block",
        ClusterUse.L1Table => "L1 table",
        ClusterUse.SnapshotL1Table => "L1 table of a snapshot",
        ClusterUse.L2Table => "L2 table",
        ClusterUse.Data => "data cluster",
        ClusterUse.Compressed => "compressed cluster",
        ClusterUse.SnapshotTable => "snapshot table",
        ClusterUse.Encryption => "encryption header",
        ClusterUse.BitmapDirectory => "bitmap directory",
        ClusterUse.BitmapTable => "bitmap table",
        ClusterUse.Bitmap => "bitmap",
        _ => "nothing",
    };

    /// <summary>
    /// Counts references to every cluster of a range. One that does not begin in the file, or goes more than a cluster
    /// beyond its end, is a finding and is not counted.
    /// </summary>
    public bool Count(long offset, long length, ClusterUse use, uint times)
    {
        if (length <= 0)
            return true;
        if (!IsInside(offset, length))
        {
            if (_findings.Noted(FindingKind.InvalidEntry, times))
                _findings.Note(offset, $"{NameOf(use)} at 0x{offset:x} lies beyond the end of the file");
            return false;
        }

        long last = (offset + length - 1) >> Geometry.ClusterBits;
        for (long cluster = offset >> Geometry.ClusterBits; cluster <= last; cluster++)
            Counts.Add(cluster, use, times);
        return true;
    }

    /// <summary>Whether a range begins in the file and goes at most a cluster beyond its end.</summary>
    public bool IsInside(long offset, long length) =>
        offset >= 0 && offset < FileLength && length <= FileLength - offset + ClusterSize;

    /// <summary>Whether a host offset is where a cluster begins.</summary>
    public bool IsAligned(long offset) => (offset & Geometry.ClusterMask) == 0;
}
