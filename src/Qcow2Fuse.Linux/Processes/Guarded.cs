// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux.Processes;

/// <summary>
/// The guard of threads and timers of the daemon's own, which answer no request: an exception that leaves one ends the
/// process, and with it all disks that it shows.
/// </summary>
public static class Guarded
{
    /// <summary>Does something; whatever it throws is told, and the caller goes on.</summary>
    public static void Run(Action work, Action<Exception> onFailure)
    {
        try
        {
            work();
        }
        catch (Exception failure)
        {
            Tell(onFailure, failure);
        }
    }

    private static void Tell(Action<Exception> onFailure, Exception failure)
    {
        try
        {
            onFailure(failure);
        }
        catch (OutOfMemoryException)
        {
            // There is no memory for the message either. What failed is tried again, and told then.
        }
    }
}
