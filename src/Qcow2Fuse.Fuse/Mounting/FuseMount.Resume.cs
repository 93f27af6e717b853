// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Transport;

namespace Qcow2Fuse.Fuse.Mounting;

/// <summary>Mounts that outlive the process that made them.</summary>
public sealed partial class FuseMount
{
    /// <summary>Number of the file system as "major:minor"; empty where the mount has gone.</summary>
    public string Device => _entry?.Device ?? "";

    /// <summary>
    /// Goes on with a mount of an earlier process. Asks nothing of the file system, which nobody serves.
    /// </summary>
    /// <param name="mountPoint"><see cref="MountPoint"/> of then.</param>
    /// <param name="device"><see cref="Device"/> of then.</param>
    /// <param name="isFile"><see cref="IsFile"/> of then.</param>
    /// <param name="session">The session's descriptor, which belongs to the mount if there is one.</param>
    /// <returns>Null where another file system, or none, is mounted there.</returns>
    public static FuseMount? Resume(string mountPoint, string device, bool isFile, int session)
    {
        MountEntry? entry = MountTable.FindAt(mountPoint);
        return string.Equals(entry?.Device, device, StringComparison.Ordinal)
            ? new FuseMount(mountPoint, isFile, entry, session, keepAlive: -1)
            : null;
    }

    /// <summary>
    /// Ends a mount of an earlier process together with its session, whoever holds that: its users get errors.
    /// </summary>
    /// <param name="mountPoint"><see cref="MountPoint"/> of then.</param>
    /// <param name="device"><see cref="Device"/> of then.</param>
    public static void Abort(string mountPoint, string device)
    {
        if (MountTable.FindAt(mountPoint) is { } mount && string.Equals(mount.Device, device, StringComparison.Ordinal))
            _ = MountRoot.Abort(mount);
    }

    /// <summary>From now on <see cref="Dispose"/> leaves the mount to whoever goes on with it.</summary>
    public void Leave() => _isLeft = true;

    /// <summary>The way to this mount's requests, with the descriptors that workers of an earlier process had. Once.
    /// </summary>
    public DevFuseTransport OpenTransport(IEnumerable<int> workers)
    {
        DevFuseTransport transport = OpenTransport();
        transport.Adopt(workers);
        return transport;
    }
}
