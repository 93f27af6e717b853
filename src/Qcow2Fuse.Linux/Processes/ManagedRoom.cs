// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux.Processes;

/// <summary>
/// Keeps the last quarter of the managed heap for what nobody asked for: timers, notifications, the log. A request or a
/// command that would begin there is refused, since what fails on a thread of the daemon's own ends the daemon.
/// </summary>
public static class ManagedRoom
{
    private const int ReservedPart = 4;
    private const long CollectionPeriodMilliseconds = 1000;

    private static readonly long BytesMax =
        GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / ReservedPart * (ReservedPart - 1);

    private static readonly Lock Gate = new();
    private static long s_lastCollection = -CollectionPeriodMilliseconds;

    /// <summary>Whether there is room, with all garbage gone.</summary>
    public static bool IsLeft
    {
        get
        {
            if (GC.GetTotalMemory(forceFullCollection: false) <= BytesMax)
                return true;
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

            return GC.GetTotalMemory(forceFullCollection: false) <= BytesMax;
        }
    }

    /// <summary>
    /// To be called before what allocates: an open, a listing, a command. Reads and writes allocate nothing and never
    /// ask.
    /// </summary>
    /// <exception cref="InsufficientMemoryException">There is no room.</exception>
    public static void Require()
    {
        if (!IsLeft)
            throw new InsufficientMemoryException("the managed heap is nearly full");
    }

    /// <summary>
    /// Starts a thread if there is room for one. <see cref="Thread.Start()"/> itself waits for ever for a thread that
    /// found no memory to begin with.
    /// </summary>
    /// <returns>False where there is no room, or the system has no more threads.</returns>
    public static bool TryStart(Thread thread)
    {
        if (!IsLeft)
            return false;
        try
        {
            thread.Start();
            return true;
        }
        catch (Exception failure) when (failure is OutOfMemoryException or ThreadStartException)
        {
            return false;
        }
    }
}
