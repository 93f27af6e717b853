// SPDX-License-Identifier: MIT

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>
/// Remembers which host clusters get a reference while the image is looked at. Its memory is there from the start,
/// since it is filled by writes of guests. Used with the image's gate held.
/// </summary>
internal sealed class AllocationLog
{
    private const int RunsMax = 1 << 16;

    private readonly ClusterRun[] _runs = new ClusterRun[RunsMax];
    private int _count;

    /// <summary>There were more runs than can be remembered.</summary>
    public bool HasOverflowed { get; private set; }

    /// <summary>The runs in the order in which they were allocated.</summary>
    public ReadOnlySpan<ClusterRun> Runs => _runs.AsSpan(0, _count);

    /// <summary>Adds clusters, joined to those before where they follow them.</summary>
    public void Add(long first, int count)
    {
        if (_count > 0 && _runs[_count - 1].End == first)
            _runs[_count - 1] = _runs[_count - 1] with { Count = _runs[_count - 1].Count + count };
        else if (_count < RunsMax)
            _runs[_count++] = new ClusterRun(first, count);
        else
            HasOverflowed = true;
    }
}
