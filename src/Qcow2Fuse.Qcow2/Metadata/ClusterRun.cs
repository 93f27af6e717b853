// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>Adjacent host clusters.</summary>
/// <param name="First">Number of the first one.</param>
/// <param name="Count">How many, at least 1.</param>
internal readonly record struct ClusterRun(long First, long Count)
{
    /// <summary>Number of the cluster behind the last one.</summary>
    public long End => First + Count;
}
