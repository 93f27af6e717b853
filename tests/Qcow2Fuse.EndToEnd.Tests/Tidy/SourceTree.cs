// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.EndToEnd.Tests.Tidy;

/// <summary>The files of the repository, found from where the tests were built.</summary>
internal static class SourceTree
{
    /// <summary>The directory that holds the solution.</summary>
    public static string Root { get; } = FindRoot();

    /// <summary>All C# files of src and tests, as paths from the root.</summary>
    public static IReadOnlyList<string> CodeFiles { get; } = Find("*.cs");

    /// <summary>All project files of src and tests, as paths from the root.</summary>
    public static IReadOnlyList<string> ProjectFiles { get; } = Find("*.csproj");

    /// <summary>The lines of a file.</summary>
    public static string[] LinesOf(string path) => File.ReadAllLines(Path.Combine(Root, path));

    /// <summary>The text of a file.</summary>
    public static string TextOf(string path) => File.ReadAllText(Path.Combine(Root, path));

    private static string FindRoot()
    {
        for (DirectoryInfo? at = new(AppContext.BaseDirectory); at is not null; at = at.Parent)
        {
            if (File.Exists(Path.Combine(at.FullName, "Qcow2Fuse.sln")))
                return at.FullName;
        }

        throw new DirectoryNotFoundException("the tests do not lie below the directory of Qcow2Fuse.sln");
    }

    private static List<string> Find(string pattern) =>
    [
        .. new[] { "src", "tests" }
            .SelectMany(part => Directory.EnumerateFiles(
                Path.Combine(Root, part), pattern, SearchOption.AllDirectories))
            .Select(path => Path.GetRelativePath(Root, path))
            .Where(static path => !path.Split('/').Any(static part => part is "bin" or "obj"))
            .Order(StringComparer.Ordinal),
    ];
}
