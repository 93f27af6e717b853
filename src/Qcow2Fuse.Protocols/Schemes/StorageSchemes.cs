// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.Protocols.Schemes;

/// <summary>The kinds of storage that are known. Nothing else in the project chooses one.</summary>
public static class StorageSchemes
{
    private const string Mark = "://";

    private static readonly FileScheme Files = new();

    /// <summary>All of them.</summary>
    public static IReadOnlyList<IStorageScheme> All { get; } = [Files];

    /// <summary>The kind of storage that a name which the user typed is of.</summary>
    /// <exception cref="BlockException">
    /// It begins with a scheme that is not known, and no file has that name.
    /// </exception>
    public static IStorageScheme Of(string name)
    {
        if (PrefixOf(name) is not { } prefix)
            return Files;
        if (All.FirstOrDefault(scheme => string.Equals(scheme.Name, prefix, StringComparison.Ordinal)) is { } known
            && known != Files)
            return known;
        if (FileIdentity.At(name) is not null)
            return Files;
        throw new BlockException(
            BlockErrorKind.NotSupported, $"{Printable.Text(name)}: is no file, and storage of the kind {prefix} is "
                + "not supported");
    }

    /// <summary>What stands before "://" in a name, if that can be a scheme (RFC 3986, section 3.1); else null.
    /// </summary>
    private static string? PrefixOf(string name)
    {
        int end = name.IndexOf(Mark, StringComparison.Ordinal);
        if (end <= 0 || !char.IsAsciiLetter(name[0]))
            return null;
        string prefix = name[..end];
        return prefix.All(static c => char.IsAsciiLetterOrDigit(c) || c is '+' or '-' or '.') ? prefix : null;
    }
}
