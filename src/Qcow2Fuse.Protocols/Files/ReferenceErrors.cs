// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>What is said about a name in an image that the policy refuses.</summary>
internal static class ReferenceErrors
{
    /// <summary>
    /// Refuses names that are no file names. A ':' before the first '/' begins what QEMU takes for a protocol or an
    /// option list; it is never interpreted, not even "file:".
    /// </summary>
    public static void CheckName(StorageReference reference)
    {
        string name = reference.Name;
        if (name.Contains('\0'))
            throw Refused(reference, "holds a NUL character");
        int colon = name.IndexOf(':');
        int slash = name.IndexOf('/');
        if (colon >= 0 && (slash < 0 || colon < slash))
            throw Refused(reference, "is not a plain file name");
    }

    /// <summary>
    /// The file lies outside the directory of the image or is hidden in it, and <paramref name="path"/> is where.
    /// </summary>
    /// <param name="reference">The name.</param>
    /// <param name="path">Where it lies.</param>
    /// <param name="real">Where links lead from there, if that is known.</param>
    public static BlockException Outside(StorageReference reference, string path, string? real = null)
    {
        string image = LinuxPath.Full(FilePath.DirectoryOf(reference.Image.Path));
        string full = LinuxPath.Full(path);
        string? inside = FilePath.Beneath(image, full);
        bool isHidden = inside is not null && FilePath.HasHiddenPart(inside);
        string reason = isHidden
            ? "is hidden or lies in a hidden directory"
            : inside is not null && reference.Kind == ReferenceKind.Backing
                ? "leads out of the image's directory by a symbolic link"
                : "lies outside the image's directory";
        if (reference.Kind == ReferenceKind.DataFile)
            return Refused(reference, reason);

        // What is hidden in a directory, and what is no file, is not found by allowing the directory.
        string place = real ?? full;
        bool isFound = !place.StartsWith("/dev/", StringComparison.Ordinal)
            && !FilePath.HasHiddenPart(place[(place.LastIndexOf('/') + 1)..]);
        bool isUnknown = inside is not null && !isHidden && real is null;
        return isFound || isUnknown
            ? Refused(reference, reason, new FailureCause(FailureCode.DirectoryNotAllowed)
            {
                Place = isUnknown ? null : FilePath.DirectoryOf(place),
            })
            : Refused(reference, reason, new FailureCause(FailureCode.NameRefused) { Place = place });
    }

    /// <summary>A symbolic link stands where none may be, or links go round in a circle.</summary>
    public static BlockException Linked(StorageReference reference) => Refused(
        reference,
        reference.Kind == ReferenceKind.DataFile
            ? "is reached by a symbolic link, which a data file must not be"
            : "is reached by links that cannot be followed");

    /// <summary>The file may have got its name from somebody who cannot read it.</summary>
    public static BlockException Planted(StorageReference reference) => Refused(
        reference, "has several names, and may be somebody else's link to what is not his");

    /// <summary>Without openat2(2) the kernel cannot keep the policy.</summary>
    public static BlockException NoOpenat2(StorageReference reference) => Refused(
        reference, "is not opened, because there is no openat2 here (before Linux 5.6, or in an old container)");

    private static BlockException Refused(StorageReference reference, string reason, FailureCause? cause = null) => new(
        BlockErrorKind.Policy,
        $"{Printable.Text(reference.Image.Path)}: the {NameOf(reference.Kind)} '{Printable.Text(reference.Name)}' "
            + reason,
        cause: (cause ?? FailureCode.NameRefused) with
        {
            File = reference.Image.Path,
            Name = reference.Name,
            Kind = reference.Kind,
            Layer = reference.Layer,
        });

    private static string NameOf(ReferenceKind kind) =>
        kind == ReferenceKind.DataFile ? "data file" : "backing file";
}
