// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Testing;

/// <summary>What code allocates on the managed heap.</summary>
public static class ManagedAllocation
{
    private const int RoundsMax = 5;

    /// <summary>
    /// The bytes that <paramref name="work"/> allocates on this thread: the least of up to five rounds. It has to be
    /// warm, that is to have run before.
    /// </summary>
    /// <remarks>
    /// A collection that another thread causes counts up to 8 KiB to each thread, the rest of its piece of the heap.
    /// What the work itself allocates is there in every round.
    /// </remarks>
    public static long Of(Action work)
    {
        long least = long.MaxValue;
        for (int round = 0; round < RoundsMax && least > 0; round++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            work();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        return least;
    }
}
