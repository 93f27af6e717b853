// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary>Who looks at a file that is no disk image is told what it is.</summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed class FileKindTests : CommandTest
{
    [SkippableTheory]
    [InlineData("info", "1F8B0800", "is a gzip file, not an image")]
    [InlineData("check", "1F8B0800", "is a gzip file, not an image")]
    [InlineData("info", "", "is empty, not an image")]
    [InlineData("check", "", "is empty, not an image")]
    [InlineData("info", "3C21444F43545950452068746D6C3E", "is a page of the web (HTML or XML), not an image")]
    public void What_is_no_image_is_named(string verb, string head, string message)
    {
        File.WriteAllBytes(PathOf("file"), Convert.FromHexString(head));
        ProcessResult result = Run(verb, PathOf("file"));
        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result, message);
    }

    [SkippableFact]
    public void With_its_format_it_is_taken_as_that()
    {
        File.WriteAllBytes(PathOf("file"), [0x1F, 0x8B, 8, 0]);
        Run("info", "-f", "raw", PathOf("file")).ShouldSucceed();
    }

    [SkippableTheory]
    [InlineData("version takes no arguments", "version", "now")]
    [InlineData("help takes one command at most", "help", "mount", "umount")]
    public void Words_too_many_are_said_to_be_so(string message, params string[] words) =>
        OneLine.Error(Run(words), message);
}
