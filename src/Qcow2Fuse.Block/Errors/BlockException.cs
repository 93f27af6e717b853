// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Block.Errors;

/// <summary>Why a block operation failed, in the terms a caller can act on.</summary>
public enum BlockErrorKind
{
    /// <summary>The storage failed (EIO).</summary>
    Io,

    /// <summary>No space is left (ENOSPC).</summary>
    NoSpace,

    /// <summary>The device cannot be written (EROFS).</summary>
    ReadOnly,

    /// <summary>The operation does not exist here (EOPNOTSUPP).</summary>
    NotSupported,

    /// <summary>Offset or length outside the device (EINVAL).</summary>
    OutOfRange,

    /// <summary>A limit of the format was reached (EFBIG).</summary>
    TooLarge,

    /// <summary>What the image needs is more memory than it may take (ENOMEM).</summary>
    NoMemory,

    /// <summary>The metadata contradicts itself (EIO; refused when met at open).</summary>
    Corrupt,

    /// <summary>Not an image of this format, or a header field is invalid.</summary>
    InvalidFormat,

    /// <summary>A valid image that uses something not supported.</summary>
    UnsupportedFeature,

    /// <summary>A file does not exist (ENOENT).</summary>
    NotFound,

    /// <summary>The system refuses access (EACCES).</summary>
    PermissionDenied,

    /// <summary>Another process holds the image (EBUSY).</summary>
    Locked,

    /// <summary>The policy for files that an image names refuses this one (EACCES).</summary>
    Policy,
}

/// <summary>A failed block operation.</summary>
public sealed class BlockException : Exception
{
    /// <summary>Creates a failure with a one-line message and, where something can be done, what it is about.</summary>
    public BlockException(BlockErrorKind kind, string message, Exception? inner = null, FailureCause? cause = null)
        : base(message, inner)
    {
        Kind = kind;
        Cause = cause;
    }

    /// <summary>What went wrong.</summary>
    public BlockErrorKind Kind { get; }

    /// <summary>What it is about, where a user can do something; else null.</summary>
    public FailureCause? Cause { get; }

    /// <summary>
    /// Whether the fault lies in one entry, which is wrong in itself: what is asked of it fails, nothing was changed,
    /// and nothing else depends on it.
    /// </summary>
    public bool IsContained { get; init; }

    /// <summary>Whether the metadata is wrong in a way that further changes could make worse.</summary>
    public bool IsSpreading => Kind == BlockErrorKind.Corrupt && !IsContained;

    /// <summary>The file it is about, by the name in front of the message; null where nobody has said.</summary>
    public string? File { get; private init; }

    /// <summary>The message without that name; null where nobody has said which it is.</summary>
    public string? Reason { get; private init; }

    /// <summary>The message without that name, where it is known which it is.</summary>
    public string ReasonOrMessage => Reason ?? Message;

    /// <summary>A failure whose message is a file's name and a reason; others may know it by another name.</summary>
    public static BlockException About(
        string file, BlockErrorKind kind, string reason, FailureCause? cause = null) =>
        new(kind, $"{file}: {reason}", cause: cause) { File = file, Reason = reason };

    /// <summary>The request that failed; null where the failure is about none.</summary>
    public BlockRequest? Request { get; private init; }

    /// <summary>A request on a file that failed.</summary>
    /// <param name="file">The file's name in messages.</param>
    /// <param name="kind">What went wrong.</param>
    /// <param name="request">The request.</param>
    /// <param name="why">The rest of the message.</param>
    public static BlockException Failed(string file, BlockErrorKind kind, BlockRequest request, string why)
    {
        string reason = string.Create(CultureInfo.InvariantCulture, $"{request} failed: {why}");
        return new BlockException(kind, $"{file}: {reason}") { File = file, Reason = reason, Request = request };
    }

    /// <summary>A request outside a device of <paramref name="size"/> bytes.</summary>
    public static BlockException OutOfRange(string name, long size, long offset, long length) =>
        new(BlockErrorKind.OutOfRange, $"{name}: range {offset}+{length} lies outside the device of {size} bytes");
}
