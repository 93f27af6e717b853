// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Protocols;

/// <summary>What is said about a name in an image that the policy refuses.</summary>
internal static class ReferenceErrors
{
    private const string Hidden = "is hidden or lies in a hidden directory";

    /// <summary>
    /// Refuses names that are no file names. A ':' before the first '/' begins what QEMU takes for a protocol or an
    /// option list; it is never interpreted, not even "file:".
    /// </summary>
    public static void CheckName(StorageReference reference)
    {
        string name = reference.Name;
        if (name.Contains('\0'))
            throw Refused(reference, "holds a NUL character", NameItYourself(reference));
        int colon = name.IndexOf(':');
        int slash = name.IndexOf('/');
        if (colon >= 0 && (slash < 0 || colon < slash))
            throw Refused(reference, "is not a plain file name", NameItYourself(reference));
    }

    /// <summary>
    /// The file lies outside the directory of the image or is hidden in it, and <paramref name="path"/> is where.
    /// </summary>
    public static BlockException Outside(StorageReference reference, string path)
    {
        string image = Path.GetFullPath(FilePath.DirectoryOf(reference.Image.Path));
        string full = Path.GetFullPath(path);
        string? inside = FilePath.Beneath(image, full);
        bool isHidden = inside is not null && FilePath.HasHiddenPart(inside);
        if (reference.Kind == ReferenceKind.DataFile)
        {
            string where = isHidden ? Hidden : "lies outside the image's directory";
            return Refused(reference, where, NameItYourself(reference));
        }

        if (isHidden)
            return Refused(reference, Hidden, AllowDirectoryOf(full));
        bool looksInside = inside is not null;
        string hint = looksInside
            ? "if you trust the image: --allow-path DIR, where DIR is the directory the link leads to"
            : AllowDirectoryOf(full);
        string reason = looksInside
            ? "leads out of the image's directory by a symbolic link"
            : "lies outside the image's directory";
        return Refused(reference, reason, hint);
    }

    /// <summary>A symbolic link stands where none may be, or links go round in a circle.</summary>
    public static BlockException Linked(StorageReference reference) => Refused(
        reference,
        reference.Kind == ReferenceKind.DataFile
            ? "is reached by a symbolic link, which a data file must not be"
            : "is reached by links that cannot be followed",
        NameItYourself(reference));

    /// <summary>The file may have got its name from somebody who cannot read it.</summary>
    public static BlockException Planted(StorageReference reference) => Refused(
        reference,
        "has several names, and may be somebody else's link to what is not his",
        NameItYourself(reference));

    /// <summary>Without openat2(2) the kernel cannot keep the policy.</summary>
    public static BlockException NoOpenat2(StorageReference reference) => Refused(
        reference, "is not opened, because this kernel has no openat2 (Linux 5.6)", NameItYourself(reference));

    private static string AllowDirectoryOf(string path) =>
        $"if you trust the image: --allow-path {Printable.Text(FilePath.DirectoryOf(path))}";

    private static BlockException Refused(StorageReference reference, string reason, string hint) => new(
        BlockErrorKind.Policy,
        $"{Printable.Text(reference.Image.Path)}: the {NameOf(reference.Kind)} '{Printable.Text(reference.Name)}' "
            + reason,
        hint: hint);

    private static string NameOf(ReferenceKind kind) =>
        kind == ReferenceKind.DataFile ? "data file" : "backing file";

    private static string NameItYourself(StorageReference reference) => reference.Kind == ReferenceKind.DataFile
        ? "if you trust the image: --data-file FILE"
        : "name the file yourself: --backing-file FILE";
}
