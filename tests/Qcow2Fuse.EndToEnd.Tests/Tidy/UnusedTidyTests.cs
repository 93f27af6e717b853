// SPDX-License-Identifier: MIT
using System.Text.RegularExpressions;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Tidy;

/// <summary>
/// Members that nothing uses. The compiler sees private ones alone; here a member counts as used whose name occurs
/// anywhere else in the code. What others define is kept whole: numbers, and fields of the kernel's structures.
/// </summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed partial class UnusedTidyTests
{
    private static readonly string[] Abi =
        ["src/Qcow2Fuse.Fuse/Abi/", "src/Qcow2Fuse.Linux/", "src/Qcow2Fuse.Fuse/Transport/FuseUring"];

    [Fact]
    public void Every_member_is_used()
    {
        Dictionary<string, int> words = new(StringComparer.Ordinal);
        foreach (string path in SourceTree.CodeFiles)
        {
            foreach (Match word in Word().Matches(CodeOf(path)))
                words[word.Value] = words.GetValueOrDefault(word.Value) + 1;
        }

        IEnumerable<string> unused =
            from path in SourceTree.CodeFiles
            where path.StartsWith("src/", StringComparison.Ordinal)
                && !Abi.Any(abi => path.StartsWith(abi, StringComparison.Ordinal))
            from name in MembersOf(SourceTree.TextOf(path))
            where words[name] == 1
            select $"{path}: {name}";
        Assert.Equal("", string.Join('\n', unused));
    }

    [Fact]
    public void Members_are_found() => Assert.Equal(
        ["Zero", "Count", "First", "Second", "Run"],
        MembersOf(
            """
            internal sealed class C : IDisposable
            {
                internal const int Zero = 0;
                public int Count { get; }
                private enum Kind
                {
                    First,
                    Second,
                }
                /// <inheritdoc/>
                public void Dispose()
                {
                }
                public static T Run<T>(int n) => default;
            }
            """));

    /// <summary>What implements or overrides something is used by that.</summary>
    private static IEnumerable<string> MembersOf(string text) => Member().Matches(text)
        .Select(static member => member.Groups["name"].Value);

    private static string CodeOf(string path) => Comment().Replace(SourceTree.TextOf(path), "");

    [GeneratedRegex("[A-Za-z_][A-Za-z0-9_]*")]
    private static partial Regex Word();

    [GeneratedRegex("//.*")]
    private static partial Regex Comment();

    /// <summary>A constant, property, method or value of an enum, by its indentation and what follows its name.
    /// </summary>
    [GeneratedRegex(
        @"(?<!inheritdoc/>(?:\n +///.*)*\n(?: +\[.*\]\n)?)"
        + @"^ +(?:(?:(?:public|internal|static|const|readonly|required|virtual|abstract|unsafe|async|partial)\s)+"
        + @"(?!class|struct|record|enum|interface|delegate|override|event)[\w<>\[\]?,.() ]*?[\w>\]?]\s(?<name>\w+)"
        + @"(?:<\w+>)?\s*(?:\(|=>|=|\{|;)|(?<name>[A-Z]\w*),$)",
        RegexOptions.Multiline)]
    private static partial Regex Member();
}
