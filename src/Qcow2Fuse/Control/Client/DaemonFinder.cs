// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Mounts;

namespace Qcow2Fuse.Control.Client;

/// <summary>
/// Which process serves which mount, also where the kernel does not show it to the calling user: the files in /proc of
/// a daemon that holds a secret are root's. Such a daemon says it over its control socket.
/// </summary>
internal static class DaemonFinder
{
    /// <summary>All mounted images, with the daemons of those that <see cref="Stack"/> does not see.</summary>
    public static IReadOnlyList<Stack> Complete(IReadOnlyList<Stack> stacks) =>
        [.. stacks.Select(static stack => stack.ProcessId is null
            ? stack with { ProcessId = FindBySocket(stack.Mount) }
            : stack)];

    /// <summary>
    /// The way to the daemon of a mount of this user, which is his own daemon's; null where none says that it serves
    /// it.
    /// </summary>
    public static ControlClient? FindClient(MountEntry mount)
    {
        if (mount.UserId != MountCalls.EffectiveUser() || mount.Minor < 0)
            return null;
        ControlClient? found = null;
        foreach (DaemonSocket socket in DaemonSocket.FindAll())
        {
            // What is seen of a process is in the table already, and one that hangs is not to be waited for.
            if (found is not null || OpenDescriptors.AreSeen(socket.Process))
            {
                socket.Dispose();
                continue;
            }

            ControlClient client = new(socket);
            if (client.TryGetMounts() is { } report
                && report.Mounts.Any(one => one.Connection == mount.Minor))
            {
                found = client;
            }
            else
            {
                client.Dispose();
            }
        }

        return found;
    }

    private static int? FindBySocket(MountEntry mount)
    {
        using ControlClient? client = FindClient(mount);
        return client?.Process;
    }
}
