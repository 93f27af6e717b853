// SPDX-License-Identifier: MIT
using System.Xml.Linq;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Tidy;

/// <summary>The structure of the solution: who may use whom.</summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed class ProjectTidyTests
{
    private static readonly Dictionary<string, string[]> Allowed = new(StringComparer.Ordinal)
    {
        ["Qcow2Fuse.Linux"] = [],
        ["Qcow2Fuse.Block"] = [],
        ["Qcow2Fuse.Qcow2"] = ["Qcow2Fuse.Block", "Qcow2Fuse.Linux"],
        ["Qcow2Fuse.Formats"] = ["Qcow2Fuse.Block"],
        ["Qcow2Fuse.Protocols"] = ["Qcow2Fuse.Block", "Qcow2Fuse.Linux"],
        ["Qcow2Fuse.Images"] =
        [
            "Qcow2Fuse.Linux", "Qcow2Fuse.Block", "Qcow2Fuse.Qcow2", "Qcow2Fuse.Formats", "Qcow2Fuse.Protocols",
        ],
        ["Qcow2Fuse.Fuse"] = ["Qcow2Fuse.Linux"],
        ["Qcow2Fuse"] =
        [
            "Qcow2Fuse.Linux", "Qcow2Fuse.Block", "Qcow2Fuse.Qcow2", "Qcow2Fuse.Formats", "Qcow2Fuse.Protocols",
            "Qcow2Fuse.Images", "Qcow2Fuse.Fuse",
        ],
    };

    [Fact]
    public void Projects_use_only_what_lies_below_them()
    {
        string[] projects = [.. SourceTree.ProjectFiles.Where(
            static path => path.StartsWith("src/", StringComparison.Ordinal))];
        Assert.Equal(Allowed.Keys.Order(StringComparer.Ordinal), projects.Select(NameOf).Order(StringComparer.Ordinal));
        foreach (string project in projects)
        {
            IEnumerable<string> references = XDocument.Parse(SourceTree.TextOf(project))
                .Descendants("ProjectReference")
                .Select(static reference => NameOf(reference.Attribute("Include")!.Value));
            Assert.Empty(references.Except(Allowed[NameOf(project)], StringComparer.Ordinal));
        }
    }

    [Fact]
    public void Every_project_is_in_the_solution()
    {
        string solution = SourceTree.TextOf("Qcow2Fuse.sln").Replace('\\', '/');
        Assert.All(SourceTree.ProjectFiles, project => Assert.Contains(project, solution, StringComparison.Ordinal));
    }

    [Fact]
    public void Versions_of_packages_are_kept_in_one_place() =>
        Assert.All(SourceTree.ProjectFiles, static project => Assert.DoesNotContain(
            XDocument.Parse(SourceTree.TextOf(project)).Descendants("PackageReference"),
            static reference => reference.Attribute("Version") is not null));

    private static string NameOf(string path) => Path.GetFileNameWithoutExtension(path.Replace('\\', '/'));
}
