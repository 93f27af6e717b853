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

    [GeneratedRegex(@"(?m)^\s+(?:-\w, )?--([a-z0-9-]+)")]
    private static partial Regex LongOption();

    [GeneratedRegex(@"\]\((?!https?:|#)([^)#]+)")]
    private static partial Regex Link();
}
