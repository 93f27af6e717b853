// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse;
using Qcow2Fuse.Linux;
using Qcow2Fuse.Stacks;

namespace Qcow2Fuse.Control;

/// <summary>
/// Which process serves which mount, also where the kernel does not show it to the calling user: the files in /proc of a
/// daemon that holds a secret are root's. Such a daemon says it over its control socket.
/// </summary>
internal static class DaemonFinder
{
    /// <summary>The daemon of a mount; null where none is found.</summary>
    public static int? Find(MountEntry mount) => DaemonTable.Read().Find(mount) ?? FindBySocket(mount);

    /// <summary>All mounted images, with the daemons of those that <see cref="Stack"/> does not see.</summary>
    public static IReadOnlyList<Stack> Complete(IReadOnlyList<Stack> stacks) =>
        [.. stacks.Select(static stack => stack.ProcessId is null
            ? stack with { ProcessId = FindBySocket(stack.Mount) }
            : stack)];

    /// <summary>Only the user's own daemons are asked, and only for his own mounts.</summary>
    private static int? FindBySocket(MountEntry mount)
    {
        if (mount.UserId != MountCalls.EffectiveUser() || mount.Minor < 0)
            return null;
        int? found = null;
        foreach (DaemonSocket socket in DaemonSocket.FindAll())
        {
            using ControlClient client = new(socket);
            if (found is null && client.TryGetMounts() is { } report
                && report.Mounts.Any(one => one.Connection == mount.Minor))
            {
                found = client.Process;
            }
        }

        return found;
    }
}
