// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>
/// The host clusters that no table refers to, each at its offset in the image file; all others read as zeroes. Which
/// they are was settled when it was made; what is in them is read when it is asked for. The file stays its owner's.
/// </summary>
internal sealed class UnreferencedDevice : BlockDevice
{
    private readonly BlockDevice _file;
    private readonly int _clusterBits;
    private readonly ClusterRun[] _runs;

    /// <param name="file">The image file.</param>
    /// <param name="clusterBits">The size of its clusters.</param>
    /// <param name="clusters">How many it has, the last one perhaps in part.</param>
    /// <param name="runs">The clusters without a reference, sorted.</param>
    public UnreferencedDevice(BlockDevice file, int clusterBits, long clusters, List<ClusterRun> runs)
    {
        _file = file;
        _clusterBits = clusterBits;
        _runs = [.. runs];
        Length = clusters << clusterBits;
        AllocatedBytes = runs.Sum(static run => run.Count) << clusterBits;
    }

    /// <inheritdoc/>
    public override string Name => $"{_file.Name} (unreferenced clusters)";

    /// <summary>The length of the image file, rounded up to whole clusters.</summary>
    public override long Length { get; }

    /// <inheritdoc/>
    public override bool IsReadOnly => true;

    /// <summary>Size of all clusters without a reference, whether the host stores anything for them or not.</summary>
    public override long AllocatedBytes { get; }

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        CheckRange(offset, destination.Length);
        while (!destination.IsEmpty)
        {
            long length = RunAt(offset, destination.Length, out bool isShown);
            Span<byte> part = destination[..(int)length];
            if (isShown)
                _file.ReadPadded(offset, part);
            else
                part.Clear();
            destination = destination[part.Length..];
            offset += length;
        }
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length)
    {
        CheckRange(offset, length);
        long run = RunAt(offset, length, out bool isShown);
        long inFile = Math.Min(run, _file.Length - offset);
        if (!isShown || inFile <= 0)
            return new Extent(offset, run, ExtentKind.Zero, -1, 0);
        Extent extent = _file.GetExtent(offset, inFile);
        return extent.Kind == ExtentKind.Unallocated ? extent with { Kind = ExtentKind.Zero } : extent;
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source) => CheckWritable();

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap) => CheckWritable();

    /// <inheritdoc/>
    public override void Flush()
    {
        // Nothing is ever written through this view.
    }

    /// <summary>How many bytes from an offset on, at most <paramref name="length"/>, are alike.</summary>
    private long RunAt(long offset, long length, out bool isShown)
    {
        long cluster = offset >> _clusterBits;

        // The first run that ends behind the cluster.
        int low = 0;
        int high = _runs.Length;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_runs[middle].End <= cluster)
                low = middle + 1;
            else
                high = middle;
        }

        isShown = low < _runs.Length && _runs[low].First <= cluster;
        long end = low == _runs.Length ? Length
            : (isShown ? _runs[low].End : _runs[low].First) << _clusterBits;
        return Math.Min(length, end - offset);
    }
}
