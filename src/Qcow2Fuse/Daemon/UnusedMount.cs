// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Daemon;

/// <summary>
/// The end of a mount with <c>idle_exit</c>: it goes when its last file has been closed. Where somebody stands in it
/// then, nothing tells when he leaves, and so it is tried again, until something is open or it has gone.
/// </summary>
internal sealed class UnusedMount(FuseMount mount, FuseServer server, ILogger logger)
{
    private static readonly TimeSpan FirstPatience = TimeSpan.FromMilliseconds(500);

    /// <summary>Each attempt looks through all processes for the one to name.</summary>
    private static readonly TimeSpan LastPatience = TimeSpan.FromSeconds(8);

    private bool _isRefused;

    /// <summary>How long events are waited for before the next attempt; for ever where none is due.</summary>
    public TimeSpan Patience { get; private set; } = Timeout.InfiniteTimeSpan;

    /// <summary>Unmounts it; false if somebody uses it again, or stands in it.</summary>
    public bool TryUnmount()
    {
        if (server.Session.OpenFiles > 0)
        {
            // The close of the last of them is the next occasion.
            Patience = Timeout.InfiniteTimeSpan;
            _isRefused = false;
            return false;
        }

        try
        {
            mount.Unmount(lazy: false);
            return true;
        }
        catch (FuseMountException exception)
        {
            if (!_isRefused)
                HostLog.StaysMounted(logger, mount.MountPoint, exception.Message);
            Patience = !_isRefused ? FirstPatience : Patience < LastPatience ? 2 * Patience : LastPatience;
            _isRefused = true;
            return false;
        }
    }
}
