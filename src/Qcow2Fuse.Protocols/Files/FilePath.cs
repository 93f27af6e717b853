// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>Arithmetic on file names that follows no links and looks at no files, but for the last method.</summary>
internal static class FilePath
{
    public static bool IsAbsolute(string path) => path.StartsWith('/');

    /// <summary>The directory part of a name, "." where there is none.</summary>
    public static string DirectoryOf(string path)
    {
        int slash = path.LastIndexOf('/');
        return slash switch
        {
            < 0 => ".",
            0 => "/",
            _ => path[..slash],
        };
    }

    /// <summary><paramref name="name"/> as seen from <paramref name="directory"/>.</summary>
    public static string Join(string directory, string name)
    {
        if (IsAbsolute(name) || string.Equals(directory, ".", StringComparison.Ordinal))
            return name;
        return directory.EndsWith('/') ? directory + name : $"{directory}/{name}";
    }

    /// <summary>
    /// The rest of the absolute <paramref name="path"/> below the absolute <paramref name="directory"/>, compared by
    /// components; null if it does not begin there. The rest may hold "..", which is the kernel's to judge.
    /// </summary>
    public static string? Beneath(string directory, string path)
    {
        string[] outer = Components(directory);
        string[] inner = Components(path);
        return inner.Length > outer.Length && inner.AsSpan(0, outer.Length).SequenceEqual(outer)
            ? string.Join('/', inner[outer.Length..])
            : null;
    }

    /// <summary>
    /// Whether a component begins with a dot, such as ".ssh", other than "." and "..": what is hidden there is not
    /// meant to be named by images.
    /// </summary>
    public static bool HasHiddenPart(string path) =>
        path.Split('/').Any(static part => part.StartsWith('.') && part is not ("." or ".."));

    /// <summary>The name under which the system knows an open file, links resolved.</summary>
    public static string OfDescriptor(int fd) =>
        LinuxPath.LinkTarget($"/proc/self/fd/{fd}")
        ?? throw new BlockException(BlockErrorKind.NotSupported, "/proc: is needed to resolve names, and not there");

    private static string[] Components(string path) =>
        [.. path.Split('/', StringSplitOptions.RemoveEmptyEntries).Where(static part => part is not ".")];
}
