// SPDX-License-Identifier: MIT

namespace Qcow2Fuse.Block.Errors;

/// <summary>
/// What a failure is about, for whoever tells a user what to do: a code and facts. The words, and the options that
/// would help, are the program's, since only it knows what was typed.
/// </summary>
/// <param name="Code">Which failure.</param>
public sealed record FailureCause(FailureCode Code)
{
    /// <summary>The file it is about, such as the image that names another; not escaped. Null where none is.</summary>
    public string? File { get; init; }

    /// <summary>The name that the image holds, or what the code says; not escaped. Null where none is.</summary>
    public string? Name { get; init; }

    /// <summary>A directory, or another file; not escaped. Null where none is.</summary>
    public string? Place { get; init; }

    /// <summary>Number of the image in its chain; 0 is the one that the user named.</summary>
    public int Layer { get; init; }

    /// <summary>What the image names the file for.</summary>
    public ReferenceKind Kind { get; init; }

    /// <summary>Who holds the image; 0 where it is not known.</summary>
    public int Process { get; init; }

    /// <summary>A cause without facts.</summary>
    public static implicit operator FailureCause(FailureCode code) => new(code);
}

/// <summary>The failures about which a user can do something.</summary>
public enum FailureCode
{
    /// <summary>Another process has locked the image (<see cref="FailureCause.Process"/>).</summary>
    InUse,

    /// <summary>The file system has no locks.</summary>
    CannotLock,

    /// <summary>The file system has no O_DIRECT.</summary>
    NoDirectAccess,

    /// <summary>O_DIRECT was preferred and is not there, so the file is opened without it.</summary>
    DirectAccessLeft,

    /// <summary>
    /// <see cref="FailureCause.File"/> names a file that is opened only if the user names it himself.
    /// <see cref="FailureCause.Place"/> is where it seems to lie, or null.
    /// </summary>
    NameRefused,

    /// <summary>
    /// <see cref="FailureCause.File"/> names a file in a directory that is not allowed:
    /// <see cref="FailureCause.Place"/>, null for one that a link leads to.
    /// </summary>
    DirectoryNotAllowed,

    /// <summary>The image needs a data file and names none.</summary>
    DataFileUnnamed,

    /// <summary>The file begins like no known format.</summary>
    NoKnownFormat,

    /// <summary>The file is a compressed one, or an archive, that may have an image in it.</summary>
    Packed,

    /// <summary>The file is an image of the format <see cref="FailureCause.Name"/>, which is not read here.</summary>
    OtherFormat,

    /// <summary>The file is none that could hold a disk.</summary>
    NotAnImage,

    /// <summary>To look at an image in use goes with read-only alone.</summary>
    LookNeedsReadOnly,

    /// <summary><see cref="FailureCause.File"/> does not say of what format its backing file is.</summary>
    BackingFormatUnstated,

    /// <summary>
    /// The backing file of <see cref="FailureCause.File"/> is not there; its format is
    /// <see cref="FailureCause.Name"/>.
    /// </summary>
    BackingMissing,

    /// <summary>The image is opened read-only because its bitmaps would be lost.</summary>
    BitmapsAtStake,

    /// <summary>The image is damaged and is not written.</summary>
    Damaged,

    /// <summary>The header of the image contradicts itself; what it holds can be read.</summary>
    DamagedHeader,

    /// <summary>It goes with images of version 3 alone.</summary>
    NeedsVersion3,

    /// <summary>The image is damaged in a way that a check names.</summary>
    DamagedSeeCheck,

    /// <summary>The bitmap was not stored after it had been in use.</summary>
    BitmapInconsistent,

    /// <summary>To try the passphrases would take too long.</summary>
    UnlockTime,

    /// <summary>A passphrase that opens nothing ends with a newline.</summary>
    PassphraseEndsInNewline,

    /// <summary>The image is encrypted, and there is no passphrase.</summary>
    PassphraseNeeded,

    /// <summary>The image is encrypted in a way that is not supported.</summary>
    CipherUnsupported,

    /// <summary>The image does not compress with <see cref="FailureCause.Name"/>.</summary>
    CompressionDiffers,

    /// <summary>The system's package <see cref="FailureCause.Name"/> is not installed.</summary>
    PackageMissing,

    /// <summary>The memory for metadata is taken.</summary>
    MetadataMemory,

    /// <summary>There are no credentials of a service manager.</summary>
    CredentialsMissing,

    /// <summary>The descriptor <see cref="FailureCause.Name"/> is not open.</summary>
    DescriptorNotOpened,

    /// <summary>A name that is none of a format; <see cref="FailureCause.Name"/> has those that are.</summary>
    FormatUnknown,

    /// <summary>A text that is no size.</summary>
    SizeInvalid,

    /// <summary>A disk would become smaller, and is not to.</summary>
    WouldShrink,

    /// <summary>The format has no metadata that could be checked.</summary>
    NothingToCheck,

    /// <summary>The disk has no such partition, but <see cref="FailureCause.Name"/>; null for none at all.</summary>
    PartitionMissing,
}
