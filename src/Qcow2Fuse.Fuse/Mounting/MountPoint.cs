// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;
using ErrorNumber = Qcow2Fuse.Linux.Libc.Errno;

namespace Qcow2Fuse.Fuse.Mounting;

/// <summary>What is found where something is to be mounted.</summary>
public enum MountPointState
{
    /// <summary>Nothing is there.</summary>
    Missing,

    /// <summary>It is there but cannot be used; <see cref="MountPoint.Errno"/> tells why.</summary>
    Unusable,

    /// <summary>A file or directory, possibly on some other living mount.</summary>
    Free,

    /// <summary>A living FUSE mount of the type asked for.</summary>
    Mounted,

    /// <summary>A FUSE mount of the type asked for whose server has died.</summary>
    Stale,

    /// <summary>A FUSE mount of another type whose server has died.</summary>
    StaleForeign,
}

/// <summary>A place to mount at.</summary>
/// <param name="State">What is there.</param>
/// <param name="Path">Its absolute path, without symbolic links where it exists.</param>
/// <param name="Mode">Kind and permissions; 0 where unknown.</param>
/// <param name="Errno">Why it is missing, unusable or stale; else 0.</param>
/// <param name="Entry">The mount whose root it is, if it is one.</param>
public sealed record MountPoint(MountPointState State, string Path, uint Mode, int Errno, MountEntry? Entry)
{
    /// <summary>
    /// Looks at <paramref name="path"/>. Asks the file system there, so it waits where that hangs; never call it for
    /// a mount of this process's own.
    /// </summary>
    /// <param name="path">The place; symbolic links are followed.</param>
    /// <param name="subtype">Mounts of type "fuse." and this count as ours.</param>
    public static MountPoint Inspect(string path, string subtype)
    {
        string full = LinuxPath.Full(path);
        int fd = MountCalls.OpenPath(full);
        if (fd < 0)
            return WithoutDescriptor(full, subtype, -fd);

        try
        {
            string real = DescriptorPath(fd) ?? full;
            MountEntry? entry = MountOf(fd, real);
            int probe = MountCalls.Probe(fd, out uint mode, out _);
            bool ours = IsOurs(entry, subtype);
            MountPointState state = -probe switch
            {
                0 => ours ? MountPointState.Mounted : MountPointState.Free,
                ErrorNumber.ENOTCONN => ours ? MountPointState.Stale : MountPointState.StaleForeign,

                // Root may not look into a user's mount; and a mount that answers with errors can be unmounted.
                _ when ours => MountPointState.Mounted,
                _ => MountPointState.Unusable,
            };
            return new MountPoint(state, real, mode, -probe, entry);
        }
        finally
        {
            FuseDevice.Close(fd);
        }
    }

    /// <summary>
    /// A path as the list of mounts has it: absolute, and without symbolic links where it exists. Asks nothing of a
    /// file system mounted there.
    /// </summary>
    public static string Resolve(string path)
    {
        string full = LinuxPath.Full(path);
        int fd = MountCalls.OpenPath(full);
        if (fd < 0)
            return full;
        string real = DescriptorPath(fd) ?? full;
        FuseDevice.Close(fd);
        return real;
    }

    /// <summary>The path of an open descriptor, as the kernel spells it.</summary>
    internal static string? DescriptorPath(int fd) => LinuxPath.LinkTarget(DescriptorLink(fd));

    /// <summary>A path that leads to exactly what the descriptor stands for.</summary>
    internal static string DescriptorLink(int fd) => string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{fd}");

    /// <summary>The mount of which a descriptor is the root; null where it is none.</summary>
    private static MountEntry? MountOf(int fd, string real) => MountRoot.EntryOf(fd) is { } entry
        ? entry.MountPoint == real ? entry : null
        : MountTable.FindAt(real);

    private static MountPoint WithoutDescriptor(string full, string subtype, int errno)
    {
        MountEntry? entry = MountTable.FindAt(full);
        MountPointState state = errno switch
        {
            ErrorNumber.ENOENT => MountPointState.Missing,
            ErrorNumber.ENOTCONN when entry is not null =>
                IsOurs(entry, subtype) ? MountPointState.Stale : MountPointState.StaleForeign,
            _ => MountPointState.Unusable,
        };
        return new MountPoint(state, full, 0, errno, entry);
    }

    private static bool IsOurs(MountEntry? entry, string subtype) => entry?.Type == "fuse." + subtype;
}
