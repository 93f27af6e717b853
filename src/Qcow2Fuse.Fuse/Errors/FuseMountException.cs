// SPDX-License-Identifier: MIT

namespace Qcow2Fuse.Fuse.Errors;

/// <summary>Why a mount could not be made or ended.</summary>
public enum FuseMountError
{
    /// <summary>The system refused for a reason of its own; the message has its words.</summary>
    System,

    /// <summary>There is nothing at the mount point's path.</summary>
    MountPointMissing,

    /// <summary>The mount point is neither a directory nor a regular file, or may not be used.</summary>
    MountPointUnusable,

    /// <summary>A living mount of the same type is there already.</summary>
    AlreadyMounted,

    /// <summary>A dead mount of another type is in the way.</summary>
    StaleForeignMount,

    /// <summary>/dev/fuse is missing or may not be opened.</summary>
    NoDevice,

    /// <summary>fusermount3 is needed and not installed.</summary>
    NoHelper,

    /// <summary>allow_other is not allowed to this user.</summary>
    AllowOtherRefused,

    /// <summary>The user may not mount.</summary>
    NotPermitted,

    /// <summary>The mount is another user's.</summary>
    OtherUser,

    /// <summary>The kernel has no FUSE file system.</summary>
    NoFileSystem,

    /// <summary>Nothing is mounted where something was to be unmounted.</summary>
    NotMounted,

    /// <summary>Somebody uses the mount, so that it cannot be ended.</summary>
    Busy,
}

/// <summary>A mount could not be made or ended.</summary>
public sealed class FuseMountException : Exception
{
    /// <summary>Creates a failure with one line that says what it is.</summary>
    public FuseMountException(FuseMountError error, string message, string? path = null)
        : base(message)
    {
        Error = error;
        Path = path;
    }

    /// <summary>The kind of failure.</summary>
    public FuseMountError Error { get; }

    /// <summary>The mount point, where something can be done about it; not escaped. Else null.</summary>
    public string? Path { get; }

    /// <summary>For <see cref="FuseMountError.Busy"/>: the message says who uses it.</summary>
    public bool NamesUsers { get; init; }
}
