// SPDX-License-Identifier: MIT
using System.Text.RegularExpressions;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Tidy;

/// <summary>What the program can do is in its manual, and links in the documentation lead somewhere.</summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed partial class DocumentationTidyTests : CommandTest
{
    private static readonly HashSet<string> NotMountOptions =
        new(StringComparer.Ordinal) { "help", "foreground", "read-only", "debug", "fs" };

    [SkippableFact]
    public void Every_mount_option_is_in_the_readme_and_the_manual()
    {
        string help = Run("mount", "--help").ShouldSucceed().Output;
        string[] options =
        [
            .. LongOption().Matches(help)
                .Select(static match => match.Groups[1].Value)
                .Where(static name => !NotMountOptions.Contains(name))
                .Select(static name => name.Replace('-', '_'))
                .Distinct(StringComparer.Ordinal),
        ];
        Assert.True(options.Length > 15, $"the help lists only {options.Length} options");
        string table = SourceTree.TextOf("README.md");
        string manual = SourceTree.TextOf("packaging/man/qcow2fuse.1");
        Assert.All(options, option => Assert.Matches($@"`{option}[=`]", table));
        Assert.All(options, option => Assert.Matches($@"(?m)^\.BI?R? .*\b{option}\b", manual));
    }

    [Fact]
    public void Links_between_documents_lead_somewhere()
    {
        string[] documents =
        [
            "README.md", "CONTRIBUTING.md", "CHANGELOG.md",
            .. Directory.EnumerateFiles(Path.Combine(SourceTree.Root, "docs"), "*.md", SearchOption.AllDirectories)
                .Select(static path => Path.GetRelativePath(SourceTree.Root, path)),
        ];
        foreach (string document in documents)
        {
            string directory = Path.GetDirectoryName(Path.Combine(SourceTree.Root, document))!;
            foreach (Match link in Link().Matches(SourceTree.TextOf(document)))
            {
                string target = Path.Combine(directory, link.Groups[1].Value);
                Assert.True(Path.Exists(target), $"{document}: {link.Groups[1].Value} does not exist");
            }
        }
    }

    /// <summary>What is promised is tested by the test that is named beside it, which exists.</summary>
    [Theory]
    [InlineData("docs/security.md")]
    [InlineData("docs/durability.md")]
    public void Tests_that_a_document_names_exist(string document)
    {
        Dictionary<string, string> texts = new(StringComparer.Ordinal);
        foreach (string file in SourceTree.CodeFiles)
        {
            string text = SourceTree.TextOf(file);
            foreach (Match one in TestClass().Matches(text))
                texts[one.Groups[1].Value] = texts.GetValueOrDefault(one.Groups[1].Value) + text;
        }

        string known = "";
        int found = 0;
        foreach (Match named in NamedTest().Matches(SourceTree.TextOf(document)))
        {
            (string type, string method) = (named.Groups["type"].Value, named.Groups["method"].Value);
            if (type.Length > 0)
                known = type;
            Assert.True(texts.TryGetValue(known, out string? text), $"{document}: there is no {known}");
            if (method.Length > 0)
            {
                Assert.True(
                    Regex.IsMatch(text, $@" {method}{(named.Groups["cut"].Length > 0 ? "" : @"\(")}"),
                    $"{document}: {known} has no {method}");
            }

            found++;
        }

        Assert.True(found > 10, $"{document} names {found} tests");
    }

    [GeneratedRegex(@"\bclass (\w+Tests)\b")]
    private static partial Regex TestClass();

    [GeneratedRegex(
        @"`(?:(?<type>\w+Tests)(?:\.(?<method>\w+?)(?<cut>_?\.\.\.)?)?|(?<method>[A-Z][a-z]*_\w+?)(?<cut>_?\.\.\.)?)`")]
    private static partial Regex NamedTest();

    [GeneratedRegex(@"(?m)^\s+(?:-\w, )?--([a-z0-9-]+)")]
    private static partial Regex LongOption();

    [GeneratedRegex(@"\]\((?!https?:|#)([^)#]+)")]
    private static partial Regex Link();
}
