// SPDX-License-Identifier: MIT
using System.Text.RegularExpressions;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Tidy;

/// <summary>Files and methods are small.</summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed partial class SizeTidyTests
{
    private const int FileLinesMax = 450;
    private const int ClassLinesMax = 500;
    private const int MethodLinesMax = 70;
    private const int MedianLinesMax = 10;

    private static readonly string[] Sources =
        [.. SourceTree.CodeFiles.Where(static path => path.StartsWith("src/", StringComparison.Ordinal))];

    [Fact]
    public void Files_are_not_too_long() => Nothing(
        from path in SourceTree.CodeFiles
        let lines = SourceTree.LinesOf(path).Length
        where lines > FileLinesMax
        select $"{path}: {lines} lines");

    /// <summary>All files of a class count: one that is cut into parts is as large as before.</summary>
    [Fact]
    public void Classes_are_not_too_long() => Nothing(
        from path in Sources
        group SourceTree.LinesOf(path).Length by $"{Path.GetDirectoryName(path)}/{TypeOf(path)}" into type
        where type.Sum() > ClassLinesMax
        select $"{type.Key}: {type.Sum()} lines");

    [Fact]
    public void Methods_are_not_too_long() => Nothing(
        from path in SourceTree.CodeFiles
        from method in Methods(SourceTree.LinesOf(path))
        where method.Lines >= MethodLinesMax
        select $"{path}:{method.Start}: a method of {method.Lines} lines");

    /// <summary>Those that are one expression are not counted, which would only make the figure smaller.</summary>
    [Fact]
    public void Half_of_the_methods_are_short()
    {
        int[] lines = [.. Sources.SelectMany(static path => Methods(SourceTree.LinesOf(path)))
            .Select(static method => method.Lines).Order()];
        Assert.InRange(lines.Length, 1000, int.MaxValue);
        Assert.InRange(lines[lines.Length / 2], 1, MedianLinesMax);
    }

    [Fact]
    public void The_check_for_long_methods_finds_one()
    {
        IEnumerable<string> body = Enumerable.Repeat("        Work();", MethodLinesMax);
        string[] lines = ["class C", "{", "    void M()", "    {", .. body, "    }", "}"];
        (int start, int length) = Assert.Single(Methods(lines));
        Assert.Equal((3, MethodLinesMax), (start, length));
    }

    /// <summary>The first type of a file, which has its name; the file's own name where it has none.</summary>
    private static string TypeOf(string path)
    {
        Match found = TypeName().Match(SourceTree.TextOf(path));
        return found.Success ? found.Groups[1].Value : Path.GetFileName(path);
    }

    private static void Nothing(IEnumerable<string> complaints) =>
        Assert.True(!complaints.Any(), string.Join('\n', complaints));

    /// <summary>
    /// Methods with a body in braces, and how many lines are in it. Members of a type begin their body at four columns
    /// (its namespace is file-scoped), those of a nested type at eight. A brace there that is not the body of a type
    /// ends at the next brace of its own column.
    /// </summary>
    private static IEnumerable<(int Start, int Lines)> Methods(string[] lines)
    {
        for (int i = 1; i < lines.Length; i++)
        {
            int column = lines[i].Length - 1;
            if (!lines[i].EndsWith('{') || lines[i].Trim() != "{" || column is not (4 or 8) || !IsMethod(lines, i))
                continue;
            string end = new string(' ', column) + "}";

            // The signature's lines and the braces are not counted: what counts is what has to be understood.
            yield return (i, lines.Skip(i + 1).TakeWhile(line => line != end && line != end + ";").Count());
        }
    }

    /// <summary>Whether the brace after these lines opens a body: the signature above ends in ")".</summary>
    private static bool IsMethod(string[] lines, int brace)
    {
        string above = lines[brace - 1].TrimEnd();
        return above.EndsWith(')') && !above.TrimStart().StartsWith("class ", StringComparison.Ordinal)
            && !Statement().IsMatch(above);
    }

    [GeneratedRegex(@"^\s*(if|for|foreach|while|switch|lock|using|fixed|catch|else if)\b")]
    private static partial Regex Statement();

    [GeneratedRegex(
        @"^(?:public|internal)[\w ]*\b(?:class|struct|record|interface)(?: struct)? (\w+)", RegexOptions.Multiline)]
    private static partial Regex TypeName();
}
