// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Linux.Loop;

namespace Qcow2Fuse.Mounts;

/// <summary>A loop device on a mounted image.</summary>
/// <param name="Loop">The device.</param>
/// <param name="Mounts">The mounts of file systems on it, or on its partitions.</param>
internal sealed record StackedLoop(LoopEntry Loop, IReadOnlyList<MountEntry> Mounts)
{
    /// <summary>Where they are.</summary>
    public IReadOnlyList<string> MountPoints => [.. Mounts.Select(static mount => mount.MountPoint)];
}

/// <summary>
/// A mounted image and what stands on it. All of it is read from the kernel's tables; nothing else is kept.
/// </summary>
/// <param name="Mount">The mount.</param>
/// <param name="ProcessId">The daemon; null where it is dead or another user's.</param>
/// <param name="Loops">The loop devices whose files are in the mount.</param>
internal sealed record Stack(MountEntry Mount, int? ProcessId, IReadOnlyList<StackedLoop> Loops)
{
    /// <summary>The image, or the name that was given for it by fsname.</summary>
    public string Image => Mount.Source;

    /// <summary>Whether nothing can be written.</summary>
    public bool IsReadOnly => Mount.SuperOptions.Split(',').Contains("ro", StringComparer.Ordinal);

    /// <summary>Whether <c>attach</c> made it.</summary>
    public bool IsAttached => IsBelow(MountDirectory.AttachBase);

    /// <summary>Whether <c>mount --fs</c> made it, so that it ends with the file system on it.</summary>
    public bool IsForFileSystem => IsBelow(MountDirectory.FileSystemBase);

    /// <summary>The user who mounted it; null where the kernel does not say.</summary>
    public uint? UserId => Mount.UserId;

    /// <summary>All mounted images, in the order of their mounting.</summary>
    public static IReadOnlyList<Stack> ReadAll()
    {
        IReadOnlyList<MountEntry> table = MountTable.Read();
        IReadOnlyList<LoopEntry> loops = LoopTable.Read();
        DaemonTable daemons = DaemonTable.Read();
        return
        [
            .. table.Where(OwnMount.Is)
                .Select(entry => new Stack(
                    entry,
                    daemons.Find(entry),
                    [
                        .. loops.Where(loop => IsIn(loop.BackingFile, entry.MountPoint))
                            .Select(loop => new StackedLoop(loop, MountsOf(loop, table))),
                    ])),
        ];
    }

    private bool IsBelow(string directory) =>
        Mount.MountPoint.StartsWith(directory + "/", StringComparison.Ordinal);

    /// <summary>Whether a file is a mount point, or lies below it.</summary>
    public static bool IsIn(string file, string mountPoint) =>
        string.Equals(file, mountPoint, StringComparison.Ordinal)
        || (file.StartsWith(mountPoint, StringComparison.Ordinal) && file[mountPoint.Length] == '/');

    /// <summary>
    /// The mounts of "/dev/loop1" and its partitions "/dev/loop1p2", but not "/dev/loop12"; nor a user's mount by FUSE,
    /// whose source is what he likes.
    /// </summary>
    public static IReadOnlyList<MountEntry> MountsOf(LoopEntry loop, IReadOnlyList<MountEntry> table) =>
    [
        .. table.Where(entry => !entry.Type.StartsWith("fuse", StringComparison.Ordinal)
                && (entry.Source == loop.Path
                    || entry.Source.StartsWith(loop.Path + "p", StringComparison.Ordinal))),
    ];
}
