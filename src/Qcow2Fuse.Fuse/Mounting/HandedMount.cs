// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Fuse;

/// <summary>
/// A session that another program has mounted and hands to this process as the descriptor in <c>/dev/fd/N</c>, so that
/// this process needs no right to mount; see drop_privileges in mount.fuse3(8).
/// </summary>
public static class HandedMount
{
    private const string Prefix = "/dev/fd/";
    private const string ConnectionField = "fuse_connection:";

    /// <summary>The descriptor that a mount point stands for; −1 where it is a place in the tree.</summary>
    public static int DescriptorOf(string mountPoint) =>
        mountPoint.StartsWith(Prefix, StringComparison.Ordinal)
        && int.TryParse(
            mountPoint.AsSpan(Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out int descriptor)
            ? descriptor
            : -1;

    /// <summary>Whether a descriptor of this process is one of /dev/fuse.</summary>
    public static bool IsSession(int descriptor) =>
        MountPoint.DescriptorPath(descriptor) is Linux.FuseDevice.Path;

    /// <summary>
    /// The mount that a session serves: the kernel tells its connection (since Linux 6.11), which has the number of the
    /// mount's device. Null where it does not tell, or the mount lies in another namespace.
    /// </summary>
    public static MountEntry? FindEntry(int descriptor)
    {
        string details = string.Create(CultureInfo.InvariantCulture, $"/proc/self/fdinfo/{descriptor}");
        string? connection = File.ReadLines(details)
            .FirstOrDefault(static line => line.StartsWith(ConnectionField, StringComparison.Ordinal))
            ?[ConnectionField.Length..].Trim();
        return connection is null
            ? null
            : MountTable.Read().FirstOrDefault(entry => entry.Device == "0:" + connection);
    }
}
