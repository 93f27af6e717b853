// SPDX-License-Identifier: MIT
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.EndToEnd.Tests.Tidy;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>The libraries without the program, as docs/library.md shows them.</summary>
public sealed class LibraryTests : MountTest
{
    private static readonly string[] Libraries = ["Linux", "Block", "Qcow2", "Formats", "Protocols", "Images"];

    [SkippableFact]
    public void The_sample_of_the_documentation_compiles_and_runs()
    {
        QemuTools.RequireTool("dotnet");
        string[] document = SourceTree.LinesOf("docs/library.md");
        string[] sample =
        [
            .. document.SkipWhile(static line => line != "```csharp").Skip(1).TakeWhile(static line => line != "```"),
        ];
        Assert.InRange(sample.Length, 20, 40);
        File.WriteAllLines(PathOf("Sample.cs"), sample);
        File.WriteAllText(
            PathOf("Sample.csproj"),
            $"""
            <Project Sdk="Microsoft.NET.Sdk">
              <PropertyGroup>
                <OutputType>Exe</OutputType>
                <TargetFramework>net10.0</TargetFramework>
                <ImplicitUsings>enable</ImplicitUsings>
                <Nullable>enable</Nullable>
              </PropertyGroup>
              <ItemGroup>
                {string.Concat(Libraries.Select(static name =>
                    $"<Reference Include=\"{AppContext.BaseDirectory}Qcow2Fuse.{name}.dll\" />"))}
              </ItemGroup>
            </Project>
            """);
        Tool(
            "dotnet", "build", PathOf("Sample.csproj"), "-o", PathOf("out"), "--nologo", "-v", "q",
            "-nodeReuse:false");
        string image = PathOf("disk.qcow2");
        Assert.Equal("before after!\n", Tool("dotnet", PathOf("out/Sample.dll"), image));
        QemuTools.ShouldPassCheck(image);
        Assert.Equal("after!"u8, QemuTools.ConvertToRaw(image).AsSpan(0, 6));
    }
}
