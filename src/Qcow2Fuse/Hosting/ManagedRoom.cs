// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting;

/// <summary>
/// Keeps the last quarter of the managed heap for what nobody asked for: timers, notifications, the log. A request or a
/// command that would begin there is refused, since what fails on a thread of the daemon's own ends the daemon.
/// </summary>
internal static class ManagedRoom
{
    private const int ReservedPart = 4;
    private const long CollectionPeriodMilliseconds = 1000;

    private static readonly long BytesMax =
        GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / ReservedPart * (ReservedPart - 1);

    private static readonly Lock Gate = new();
    private static long s_lastCollection = -CollectionPeriodMilliseconds;

    /// <summary>
    /// To be called before what allocates: an open, a listing, a command. Reads and writes allocate nothing and never
    /// ask.
    /// </summary>
    /// <exception cref="InsufficientMemoryException">There is no room, with all garbage gone.</exception>
    public static void Require()
    {
        if (GC.GetTotalMemory(forceFullCollection: false) <= BytesMax)
            return;
        lock (Gate)
        {
            // Not again and again: requests wait while it lasts.
            long now = Environment.TickCount64;
            if (now - s_lastCollection >= CollectionPeriodMilliseconds)
            {
                GC.Collect();
                s_lastCollection = now;
            }
        }

        if (GC.GetTotalMemory(forceFullCollection: false) > BytesMax)
            throw new InsufficientMemoryException("the managed heap is nearly full");
    }
}
