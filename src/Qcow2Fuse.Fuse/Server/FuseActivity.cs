// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Transport;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>What the workers of a server have done and are doing.</summary>
/// <param name="Served">Requests they have finished since the start.</param>
/// <param name="Busy">Workers with a request in work, and requests that workers have put in a queue.</param>
/// <param name="Workers">All workers.</param>
public readonly record struct FuseActivity(long Served, int Busy, int Workers)
{
    /// <summary>
    /// Whether no worker takes requests, and none has finished one since <paramref name="before"/> was seen: nobody is
    /// there to answer.
    /// </summary>
    public bool IsStuckSince(FuseActivity before) => Busy >= Workers && Served == before.Served;

    /// <summary>The activity of workers by their slots, and by the queue they put requests in.</summary>
    internal static FuseActivity Of(IReadOnlyList<FuseSlot> slots, TransferQueue? queue)
    {
        long served = queue?.Served ?? 0;
        int busy = queue?.InWork ?? 0;
        foreach (FuseSlot slot in slots)
        {
            served += slot.Served;
            if (queue is null && slot.IsBusy)
                busy++;
        }

        return new FuseActivity(served, busy, slots.Count);
    }
}
