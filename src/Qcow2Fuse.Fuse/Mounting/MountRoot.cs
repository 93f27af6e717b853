// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;

namespace Qcow2Fuse.Fuse.Mounting;

/// <summary>
/// The root of a mount, reached where the kernel's table has it, and used only where it is that mount.
/// </summary>
/// <remarks>
/// Whoever owns a directory on the way can exchange it for another one, or for a link, at any moment. So the way is
/// walked component by component without following a link, of which paths in the table have none; what is at its end is
/// told by the number of its mount; and it is then used by its descriptor, or as a name in the directory that is held.
/// Nothing is asked of the file system there, which may never answer.
/// </remarks>
public static class MountRoot
{
    private const int Held = OpenFlags.PathOnly | OpenFlags.CloseOnExec;

    /// <summary>
    /// A descriptor that stands for the root (O_PATH), or −errno: −EINVAL where the mount is not at its place any more,
    /// −ESTALE where another one covers it.
    /// </summary>
    public static int Open(MountEntry mount) => Reach(mount, static (_, _, root) => root);

    /// <summary>
    /// Opens the root with these flags of open(2): the descriptor, or −errno as from <see cref="Open"/>. What is
    /// neither a directory nor a regular file is not opened, since that alone may do something: −EOPNOTSUPP.
    /// </summary>
    public static int Reopen(MountEntry mount, int flags)
    {
        int root = Open(mount);
        if (root < 0)
            return root;
        int result = LinuxFile.KnownStatus(root, out FileStatus status);
        if (result == 0)
        {
            result = status.Type is FileType.Directory or FileType.Regular
                ? LinuxFile.Reopen(root, flags | OpenFlags.CloseOnExec) : -Errno.EOPNOTSUPP;
        }

        _ = LinuxFile.Close(root);
        return result;
    }

    /// <summary>
    /// umount2(2) of this mount and no other: 0, or −errno; −EINVAL where it is not at its place any more, −ESTALE
    /// where another one covers it.
    /// </summary>
    /// <param name="mount">The mount.</param>
    /// <param name="lazy">Takes it out of the tree at once; it then ends with its last user.</param>
    public static int Unmount(MountEntry mount, bool lazy) =>
        Reach(mount, lazy ? Detach : UnmountNamed);

    /// <summary>Ends the session of a FUSE mount and takes it away, as <see cref="Unmount"/> does.</summary>
    public static int Abort(MountEntry mount) => Reach(mount, AbortNamed);

    /// <summary>
    /// Asks a FUSE mount whether somebody serves it, and waits as long as nobody answers; false where its server has
    /// died.
    /// </summary>
    public static bool IsServed(MountEntry mount)
    {
        int root = Open(mount);
        if (root < 0)
            return root != -Errno.ENOTCONN;
        int result = MountCalls.Probe(root, out _, out _);
        FuseDevice.Close(root);
        return result != -Errno.ENOTCONN;
    }

    /// <summary>The mount that a descriptor of this process is on; null where the kernel does not say.</summary>
    internal static MountEntry? EntryOf(int descriptor) => NumberOf(descriptor) is { } number
        ? MountTable.Read().FirstOrDefault(entry => entry.Id == number) : null;

    private static int UnmountNamed(int above, string name, int root) =>
        Named(above, name, root, static path => MountCalls.Unmount(path, detach: false));

    private static int Detach(int above, string name, int root) =>
        Named(above, name, root, static path => MountCalls.Unmount(path, detach: true));

    private static int AbortNamed(int above, string name, int root) => Named(above, name, root, MountCalls.Abort);

    /// <summary>
    /// The kernel unmounts by name only. The last component alone is looked up, and no link followed.
    /// </summary>
    private static int Named(int above, string name, int root, Func<string, int> call)
    {
        // As long as it is held it is in use.
        _ = LinuxFile.Close(root);
        return call($"{MountPoint.DescriptorLink(above)}/{name}");
    }

    /// <summary>
    /// Calls <paramref name="use"/> with the directory above, the name there, and the root, which is its to close.
    /// </summary>
    private static int Reach(MountEntry mount, Func<int, string, int, int> use)
    {
        int above = OpenAbove(mount.MountPoint, out string name);
        int result = above;
        if (above >= 0)
        {
            result = Checked(LinuxDirectory.OpenIn(above, name, Held | OpenFlags.NoFollow), mount);
            if (result >= 0)
                result = use(above, name, result);
            _ = LinuxFile.Close(above);
        }

        return result < 0 && MountTable.Find(mount) is null ? -Errno.EINVAL : result;
    }

    /// <summary>What was opened, if it lies on this mount. Held, its number cannot become another mount's.</summary>
    private static int Checked(int descriptor, MountEntry mount)
    {
        if (descriptor < 0)
            return descriptor;
        if (NumberOf(descriptor) == mount.Id && MountTable.Find(mount) is not null)
            return descriptor;
        _ = LinuxFile.Close(descriptor);
        return -Errno.ESTALE;
    }

    /// <summary>The directory in which the last component of a path is: its descriptor, or −errno.</summary>
    private static int OpenAbove(string path, out string name)
    {
        int last = path.LastIndexOf('/');
        name = last + 1 < path.Length ? path[(last + 1)..] : ".";
        int held = LinuxFile.Open("/", Held | OpenFlags.Directory);
        foreach (string part in path[..Math.Max(last, 0)].Split('/', StringSplitOptions.RemoveEmptyEntries))
        {
            if (held < 0)
                return held;
            int next = LinuxDirectory.OpenIn(held, part, Held | OpenFlags.Directory | OpenFlags.NoFollow);
            _ = LinuxFile.Close(held);
            held = next;
        }

        return held;
    }

    /// <summary>
    /// statx(2) tells it too, but asks a FUSE mount whether the caller may know, and that says no to root.
    /// </summary>
    private static int? NumberOf(int descriptor)
    {
        try
        {
            string? text = OpenDescriptors.FieldOf(
                string.Create(CultureInfo.InvariantCulture, $"/proc/self/fdinfo/{descriptor}"), "mnt_id");
            return int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int number) ? number : null;
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // There is no /proc, or one of an old kernel that hides the files of a process with a secret from itself.
            return null;
        }
    }
}
