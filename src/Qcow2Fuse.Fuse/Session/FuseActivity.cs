// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse;

/// <summary>What the workers of a server have done and are doing.</summary>
/// <param name="Served">Requests they have finished since the start.</param>
/// <param name="Busy">Workers with a request in work.</param>
/// <param name="Workers">All workers.</param>
public readonly record struct FuseActivity(long Served, int Busy, int Workers)
{
    /// <summary>
    /// Whether no worker takes requests, and none has finished one since <paramref name="before"/> was seen: nobody is
    /// there to answer.
    /// </summary>
    public bool IsStuckSince(FuseActivity before) => Busy >= Workers && Served == before.Served;

    /// <summary>The activity of the workers of <paramref name="slots"/>; what others served counts as theirs.</summary>
    internal static FuseActivity Of(IReadOnlyList<FuseSlot> slots, long servedByOthers)
    {
        long served = servedByOthers;
        int busy = 0;
        foreach (FuseSlot slot in slots)
        {
            served += slot.Served;
            busy += slot.IsBusy ? 1 : 0;
        }

        return new FuseActivity(served, busy, slots.Count);
    }
}
