// SPDX-License-Identifier: MIT
using Mono.Unix.Native;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>Who owns what a mount shows, and who may use it.</summary>
/// <param name="UserId">Owner.</param>
/// <param name="GroupId">Group.</param>
/// <param name="DirectoryMode">Permissions of the directory.</param>
/// <param name="WritableFileMode">Permissions of the raw file while it can be written.</param>
internal sealed record FileOwnership(uint UserId, uint GroupId, uint DirectoryMode, uint WritableFileMode)
{
    private const uint WriteBits = 0x92; // -w--w--w-
    private const uint OwnerOnlyDirectory = 0x1C0; // rwx------
    private const uint VisibleDirectory = 0x1ED; // rwxr-xr-x
    private const uint OwnerOnlyFile = 0x180; // rw-------
    private const uint AnyDirectory = 0x1FF; // rwxrwxrwx
    private const uint AnyFile = 0x1B6; // rw-rw-rw-

    /// <summary>What the settings ask for; the caller owns the files unless they say otherwise.</summary>
    /// <remarks>
    /// <c>allow_other</c> alone lets others see the file but not open it: a disk holds secrets of its guest.
    /// </remarks>
    public static FileOwnership From(MountSettings settings)
    {
        uint directory = settings.AllowOther ? VisibleDirectory : OwnerOnlyDirectory;
        return new FileOwnership(
            settings.UserId ?? Syscall.getuid(),
            settings.GroupId ?? Syscall.getgid(),
            settings.Umask is { } mask ? AnyDirectory & ~mask : directory,
            settings.Umask is { } fileMask ? AnyFile & ~fileMask : OwnerOnlyFile);
    }

    /// <summary>Permissions of the raw file.</summary>
    public uint FileMode(bool isReadOnly) => isReadOnly ? WritableFileMode & ~WriteBits : WritableFileMode;
}
