// SPDX-License-Identifier: MIT
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Mounts;

namespace Qcow2Fuse.Control.Client;

/// <summary>
/// The mount of a daemon as the kernel knows it. A daemon says which session it serves; where that is mounted, by whom,
/// and what lies in it, is read from the kernel's table and from the mount itself. No path of the daemon's is opened.
/// </summary>
/// <param name="Entry">The mount.</param>
internal sealed record DaemonMount(MountEntry Entry)
{
    /// <summary>The mount of a report's session; null where there is none in this namespace, or another user's.
    /// </summary>
    public static DaemonMount? Find(MountReport report)
    {
        uint self = MountCalls.EffectiveUser();
        MountEntry? entry = MountTable.Read().FirstOrDefault(entry =>
            OwnMount.Is(entry) && report.Connection >= 0 && entry.Minor == report.Connection
            && (entry.UserId is null or 0 || entry.UserId == self));
        return entry is null ? null : new DaemonMount(entry);
    }

    /// <summary>The name of an image's raw file, without a directory.</summary>
    public static string NameOf(MountedImageReport image) => Path.GetFileName(image.File);

    /// <summary>Opens the root of the mount: the descriptor, or −errno; −ESTALE where something else is there by now.
    /// </summary>
    public int Open(int flags) => MountRoot.Reopen(Entry, flags);

    /// <summary>
    /// Opens the raw file of an image: the root of the mount where that is a file, else a file right in it.
    /// </summary>
    public int OpenRawFile(MountedImageReport image, int flags)
    {
        int root = MountRoot.Open(Entry);
        if (root < 0)
            return root;
        int result = LinuxFile.KnownStatus(root, out FileStatus status);
        if (result == 0 && status.Type != FileType.Directory)
            return Reopened(root, flags);
        if (result == 0)
        {
            result = Checked(LinuxFile.OpenAt(
                root, NameOf(image), OpenFlags.PathOnly | OpenFlags.CloseOnExec,
                ResolveFlags.Beneath | ResolveFlags.NoSymlinks | ResolveFlags.NoMagicLinks));
        }

        _ = LinuxFile.Close(root);
        return result < 0 ? result : Reopened(result, flags);
    }

    /// <summary>Opens what a descriptor stands for, and closes that.</summary>
    private static int Reopened(int descriptor, int flags)
    {
        int result = LinuxFile.Reopen(descriptor, flags | OpenFlags.CloseOnExec);
        _ = LinuxFile.Close(descriptor);
        return result;
    }

    /// <summary>What was opened, if it lies in this mount.</summary>
    private int Checked(int descriptor)
    {
        if (descriptor < 0)
            return descriptor;
        int result = LinuxFile.KnownStatus(descriptor, out FileStatus status);
        if (result == 0 && status.Device == DeviceNumber.Of(Entry.Device))
            return descriptor;
        _ = LinuxFile.Close(descriptor);
        return result < 0 ? result : -Errno.ESTALE;
    }
}
