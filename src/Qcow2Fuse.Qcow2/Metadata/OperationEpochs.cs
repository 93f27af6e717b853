// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>
/// Grace periods: tells when every operation that might still read or write a freed host cluster has ended.
/// </summary>
/// <remarks>
/// An operation enters the current epoch under the image's gate, in the same critical section that looks up where its
/// data lies, and leaves it after its I/O. A cluster unlinked in epoch E can be in use only by operations that entered
/// E or an earlier one. This tracks all host ranges in flight, plain overwrites and reads included, at the price of
/// two interlocked additions, where a set of ranges would cost a search per request.
/// </remarks>
internal sealed class OperationEpochs
{
    private readonly int[] _active = new int[2];

    /// <summary>The epoch that operations enter now.</summary>
    public long Current { get; private set; } = 1;

    /// <summary>Enters the current epoch; the gate is held.</summary>
    /// <returns>The epoch to hand to <see cref="Exit"/>.</returns>
    public long Enter()
    {
        Interlocked.Increment(ref _active[Current & 1]);
        return Current;
    }

    /// <summary>Leaves an epoch; with or without the gate.</summary>
    public void Exit(long epoch) => Interlocked.Decrement(ref _active[epoch & 1]);

    /// <summary>
    /// Whether all operations of <paramref name="epoch"/> and before have ended. Opens a new epoch where that helps;
    /// the gate is held.
    /// </summary>
    public bool HasEnded(long epoch)
    {
        // A new epoch takes over the counter of the one before the current, so that one must have run dry first.
        while (Current <= epoch && Volatile.Read(ref _active[(Current - 1) & 1]) == 0)
            Current++;
        if (Current <= epoch)
            return false;
        return Current >= epoch + 2 || Volatile.Read(ref _active[epoch & 1]) == 0;
    }
}
