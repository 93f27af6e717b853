// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>Sets of host clusters as sorted lists of runs that do not touch.</summary>
internal static class ClusterRuns
{
    /// <summary>Runs kept at most, 16 bytes each.</summary>
    public const int RunsMax = 1 << 20;

    /// <summary>The clusters of the file that a finished check has seen no reference to.</summary>
    /// <exception cref="BlockException">There are more than <see cref="RunsMax"/> runs.</exception>
    public static List<ClusterRun> Unreferenced(CheckRun run)
    {
        List<ClusterRun> runs = [];
        long next = 0;
        run.Counts.VisitCells((long cluster, ref uint cell) =>
        {
            if (ReferenceCounts.CountOf(cell) == 0)
                return;
            if (cluster > next && next < run.FileClusters)
                Add(runs, new ClusterRun(next, Math.Min(cluster, run.FileClusters) - next));
            next = cluster + 1;
        });
        if (next < run.FileClusters)
            Add(runs, new ClusterRun(next, run.FileClusters - next));
        return runs;
    }

    /// <summary>What is in <paramref name="runs"/> and in none of <paramref name="others"/>.</summary>
    /// <param name="runs">Sorted.</param>
    /// <param name="others">In any order; they may overlap.</param>
    /// <exception cref="BlockException">There are more than <see cref="RunsMax"/> runs.</exception>
    public static List<ClusterRun> Without(List<ClusterRun> runs, ReadOnlySpan<ClusterRun> others)
    {
        ClusterRun[] sorted = others.ToArray();
        Array.Sort(sorted, static (a, b) => a.First.CompareTo(b.First));
        List<ClusterRun> left = [];
        int at = 0;
        foreach (ClusterRun run in runs)
        {
            long next = run.First;
            while (at < sorted.Length && sorted[at].End <= next)
                at++;
            for (int i = at; i < sorted.Length && sorted[i].First < run.End; i++)
            {
                if (sorted[i].First > next)
                    Add(left, new ClusterRun(next, sorted[i].First - next));
                next = Math.Max(next, sorted[i].End);
            }

            if (next < run.End)
                Add(left, new ClusterRun(next, run.End - next));
        }

        return left;
    }

    private static void Add(List<ClusterRun> runs, ClusterRun run)
    {
        if (runs.Count == RunsMax)
        {
            throw new BlockException(
                BlockErrorKind.TooLarge, "the image file has too many runs of unreferenced clusters to be listed");
        }

        runs.Add(run);
    }
}
