// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse.Mounting;

/// <summary>What to mount, where and how.</summary>
public sealed record MountSpec
{
    private const string SecurityModule = "/sys/fs/selinux/enforce";

    /// <summary>An existing directory or regular file; the root node must be of the same kind.</summary>
    public required string MountPoint { get; init; }

    /// <summary>What findmnt(8) shows as the source, usually the path of the image.</summary>
    public required string Source { get; init; }

    /// <summary>The file system type is "fuse." and this.</summary>
    public string Subtype { get; init; } = "qcow2fuse";

    /// <summary>Generic mount flags.</summary>
    public MountFlags Flags { get; init; } = MountFlags.NoSetuid | MountFlags.NoDevices;

    /// <summary>Whether users other than the mounting one get in.</summary>
    public bool AllowOther { get; init; }

    /// <summary>
    /// Whether the kernel checks permissions by owner and mode. Always so with <see cref="AllowOther"/>.
    /// </summary>
    public bool DefaultPermissions { get; init; }

    /// <summary>Largest read in bytes; 0 leaves it to the kernel.</summary>
    public int MaxRead { get; init; }

    /// <summary>
    /// Labels of SELinux, <c>context</c> and such, with their values. Where SELinux is off they mean nothing, as for
    /// mount(8).
    /// </summary>
    public IReadOnlyList<(string Name, string Label)> SecurityOptions { get; init; } = [];

    /// <summary>
    /// Whether the mount goes when this process dies. It mounts by way of fusermount3, which stays behind to see to
    /// it; before version 3.15 this works for root only.
    /// </summary>
    public bool AutoUnmount { get; init; }

    /// <summary>Those that the kernel knows.</summary>
    internal IReadOnlyList<(string Name, string Label)> EffectiveSecurityOptions =>
        SecurityOptions.Count > 0 && File.Exists(SecurityModule) ? SecurityOptions : [];

    /// <summary>
    /// Applies one word of "-o": the generic flags (ro, nosuid, noatime ...) and the options of FUSE (allow_other,
    /// default_permissions, max_read=, auto_unmount, fsname=, subtype=). False if the word is none of them.
    /// </summary>
    /// <exception cref="FormatException">The value is missing, not wanted or not a number in range.</exception>
    public bool TryApply(string name, string? value, out MountSpec result) =>
        MountOptionWords.TryApply(this, name, value, out result);
}

/// <summary>Mount flags (MS_*) of mount(2).</summary>
[Flags]
public enum MountFlags : ulong
{
    /// <summary>Nothing out of the ordinary.</summary>
    None = 0,

    /// <summary>MS_RDONLY.</summary>
    ReadOnly = 1,

    /// <summary>MS_NOSUID.</summary>
    NoSetuid = 2,

    /// <summary>MS_NODEV.</summary>
    NoDevices = 4,

    /// <summary>MS_NOEXEC.</summary>
    NoExecute = 8,

    /// <summary>MS_SYNCHRONOUS.</summary>
    Synchronous = 16,

    /// <summary>MS_DIRSYNC.</summary>
    SynchronousDirectories = 128,

    /// <summary>MS_NOATIME.</summary>
    NoAccessTimes = 1024,

    /// <summary>MS_NODIRATIME.</summary>
    NoDirectoryAccessTimes = 2048,

    /// <summary>MS_RELATIME.</summary>
    RelativeAccessTimes = 1 << 21,

    /// <summary>MS_STRICTATIME.</summary>
    StrictAccessTimes = 1 << 24,

    /// <summary>MS_LAZYTIME.</summary>
    LazyTimes = 1 << 25,
}
