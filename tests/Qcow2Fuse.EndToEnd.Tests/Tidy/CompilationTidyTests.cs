// SPDX-License-Identifier: MIT
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Tidy;

/// <summary>What a program that is compiled ahead cannot do does not get into this one.</summary>
public sealed class CompilationTidyTests : MountTest
{
    private const string Unfit =
        """
        // SPDX-License-Identifier: MIT
        internal static class Program
        {
            private static int Main(string[] arguments) =>
                System.Type.GetType(arguments[0])!.GetMethods().Length
                + typeof(System.Collections.Generic.List<>).MakeGenericType(System.Type.GetType(arguments[1])!).Name.Length;
        }
        """;

    /// <summary>Trimming and AOT analysis run in every project, and what they say ends the build.</summary>
    [SkippableFact]
    public void A_build_with_a_warning_of_trimming_or_AOT_analysis_fails()
    {
        QemuTools.RequireTool("dotnet");
        File.WriteAllText(PathOf("Program.cs"), Unfit);
        File.WriteAllText(
            PathOf("Unfit.csproj"),
            $"""
            <Project>
              <PropertyGroup>
                <DirectoryPackagesPropsPath>{SourceTree.Root}/Directory.Packages.props</DirectoryPackagesPropsPath>
              </PropertyGroup>
              <Import Project="{SourceTree.Root}/Directory.Build.props" />
              <Import Project="Sdk.props" Sdk="Microsoft.NET.Sdk" />
              <PropertyGroup><OutputType>Exe</OutputType></PropertyGroup>
              <Import Project="Sdk.targets" Sdk="Microsoft.NET.Sdk" />
            </Project>
            """);
        ProcessResult built = TryTool("dotnet", "build", PathOf("Unfit.csproj"), "--nologo", "-nodeReuse:false");
        Assert.NotEqual(0, built.ExitCode);
        Assert.Contains("error IL2057", built.Output, StringComparison.Ordinal);
        Assert.Contains("error IL3050", built.Output, StringComparison.Ordinal);
    }

    /// <summary>The compiler of the native program sees packages and the framework too.</summary>
    [Fact]
    public void Nothing_is_suppressed()
    {
        string program = SourceTree.TextOf("src/Qcow2Fuse/Qcow2Fuse.csproj");
        Assert.Contains("<PublishAot>true</PublishAot>", program, StringComparison.Ordinal);
        Assert.Contains("<TrimmerSingleWarn>false</TrimmerSingleWarn>", program, StringComparison.Ordinal);
        foreach (string project in SourceTree.ProjectFiles.Append("Directory.Build.props")
            .Where(static path => !path.StartsWith("tests/", StringComparison.Ordinal)))
        {
            string text = SourceTree.TextOf(project);
            foreach (string word in (string[])
                ["SuppressTrimAnalysisWarnings", "SuppressAotAnalysisWarnings", "IlcTreatWarningsAsErrors", ";IL"])
            {
                Assert.DoesNotContain(word, text, StringComparison.Ordinal);
            }
        }

        Assert.Contains(
            "<TreatWarningsAsErrors>true</TreatWarningsAsErrors>", SourceTree.TextOf("Directory.Build.props"),
            StringComparison.Ordinal);
    }

    [Fact]
    public void A_suppression_has_its_reason_beside_it()
    {
        foreach (string file in SourceTree.CodeFiles.Where(static path => path.StartsWith("src/", StringComparison.Ordinal)))
        {
            string[] lines = SourceTree.LinesOf(file);
            for (int i = 0; i < lines.Length; i++)
            {
                bool suppresses = lines[i].Contains("UnconditionalSuppressMessage", StringComparison.Ordinal)
                    || lines[i].Contains("#pragma warning disable IL", StringComparison.Ordinal);
                Assert.True(
                    !suppresses || (i > 0 && lines[i - 1].TrimStart().StartsWith("//", StringComparison.Ordinal))
                        || lines[i].Contains("Justification", StringComparison.Ordinal),
                    $"{file}:{i + 1}: no reason");
            }
        }
    }
}
