// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Mounting;

/// <summary>
/// A session that another program has mounted and hands to this process as the descriptor in <c>/dev/fd/N</c>, so that
/// this process needs no right to mount; see drop_privileges in mount.fuse3(8).
/// </summary>
public static class HandedMount
{
    private const string Prefix = "/dev/fd/";
    private const string ConnectionField = "fuse_connection";

    /// <summary>The descriptor that a mount point stands for; −1 where it is a place in the tree.</summary>
    public static int DescriptorOf(string mountPoint) =>
        mountPoint.StartsWith(Prefix, StringComparison.Ordinal)
        && int.TryParse(
            mountPoint.AsSpan(Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out int descriptor)
            ? descriptor
            : -1;

    /// <summary>Whether a descriptor of this process is one of /dev/fuse.</summary>
    public static bool IsSession(int descriptor) =>
        MountPoint.DescriptorPath(descriptor) is FuseDevice.Path;

    /// <summary>
    /// The mount that a session serves: the kernel tells its connection (since Linux 6.11), which has the number of the
    /// mount's device. Where it does not tell, the FUSE mount on a path is taken for it. Null where there is none, as
    /// where it lies in another namespace.
    /// </summary>
    /// <param name="descriptor">The session.</param>
    /// <param name="path">Where it was mounted a moment ago, without symbolic links; null where that is not known.
    /// </param>
    public static MountEntry? FindEntry(int descriptor, string? path)
    {
        IReadOnlyList<MountEntry> table = MountTable.Read();
        if (ConnectionOf(descriptor) is { } connection)
        {
            // Of a mount that has gone the number may be another's by now.
            if (!FuseDevice.IsConnected(descriptor))
                return null;
            List<MountEntry> mounts = [.. table.Where(entry => entry.Device == "0:" + connection)];
            return mounts.Find(entry => entry.MountPoint == path) ?? mounts.FirstOrDefault();
        }

        return path is not null && MountTable.FindAt(table, path) is { } there
            && there.Type.StartsWith("fuse.", StringComparison.Ordinal) ? there : null;
    }

    private static string? ConnectionOf(int descriptor)
    {
        try
        {
            return OpenDescriptors.FieldOf(
                string.Create(CultureInfo.InvariantCulture, $"/proc/self/fdinfo/{descriptor}"), ConnectionField);
        }
        catch (UnauthorizedAccessException)
        {
            // Kernels that do not tell it hide the files of a process with a secret from itself.
            return null;
        }
    }
}
