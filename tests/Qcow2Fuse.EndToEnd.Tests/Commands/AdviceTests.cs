// SPDX-License-Identifier: MIT
using System.Text.RegularExpressions;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary>What a hint says can be typed, and does what it says.</summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed partial class AdviceTests
{
    [Fact]
    public void No_command_is_advised_an_option_that_it_does_not_have()
    {
        foreach (TypedVerb verb in Enum.GetValues<TypedVerb>())
        {
            foreach (FailureCode code in Enum.GetValues<FailureCode>())
            {
                foreach (int layer in (int[])[0, 2])
                {
                    string? advice = Advice.For(Cause(code) with { Layer = layer }, verb);
                    foreach (string option in OptionsIn(advice ?? ""))
                        Assert.True(Has(verb, option), $"{verb} has no {option}: {advice}");
                }
            }
        }
    }

    [Theory]
    [InlineData(FailureCode.NameRefused)]
    [InlineData(FailureCode.BackingMissing)]
    [InlineData(FailureCode.BackingFormatUnstated)]
    public void What_is_advised_for_a_lower_layer_changes_that_layer_alone(FailureCode code)
    {
        foreach (TypedVerb verb in Enum.GetValues<TypedVerb>())
        {
            string advice = Advice.For(Cause(code) with { Layer = 2 }, verb) ?? "";
            foreach (Match match in ChoiceOfFile().Matches(advice))
                Assert.StartsWith("@2=", match.Groups[1].Value, StringComparison.Ordinal);
        }

        Assert.Contains("@2=", Advice.For(Cause(code) with { Layer = 2 }, TypedVerb.Mount), StringComparison.Ordinal);
        Assert.DoesNotContain("@", Advice.For(Cause(code), TypedVerb.Mount), StringComparison.Ordinal);
    }

    [Fact]
    public void The_data_file_of_a_lower_layer_is_not_taken_for_the_top_images()
    {
        FailureCause cause = Cause(FailureCode.NameRefused) with { Kind = ReferenceKind.DataFile };
        Assert.Contains("--data-file FILE", Advice.For(cause, TypedVerb.Mount), StringComparison.Ordinal);
        Assert.Null(Advice.For(cause with { Layer = 1 }, TypedVerb.Mount));
    }

    [Fact]
    public void An_option_is_written_as_the_command_takes_it()
    {
        FailureCause cause = new(FailureCode.NameRefused) { Place = "/srv/my,base" };
        Assert.Equal(
            "name the file yourself: --backing-file /srv/my,base", Advice.For(cause, TypedVerb.Mount));
        Assert.Equal(
            @"name the file yourself: -o 'backing_file=/srv/my\,base'", Advice.For(cause, TypedVerb.Attach));
    }

    private static FailureCause Cause(FailureCode code) =>
        new(code) { File = "/srv/a.qcow2", Name = "base", Place = "/srv/b" };

    private static IEnumerable<string> OptionsIn(string advice)
    {
        // A command line of another program, or another command of this one, has options of its own.
        string own = OtherCommand().Replace(advice, "");
        foreach (Match match in OptionWord().Matches(own))
            yield return match.Value;
    }

    private static bool Has(TypedVerb verb, string option)
    {
        bool isMount = verb is TypedVerb.Mount or TypedVerb.FileSystem;
        if (isMount || verb is TypedVerb.Helper or TypedVerb.Attach or TypedVerb.Run)
        {
            if (option is "-r")
                return verb != TypedVerb.Helper;
            string name = option.TrimStart('-').Replace('-', '_').Replace("o ", "", StringComparison.Ordinal);
            return MountOptions.Find(name) is not null
                && (isMount || option.StartsWith("-o ", StringComparison.Ordinal));
        }

        return verb switch
        {
            TypedVerb.Look => option is "-U",
            TypedVerb.Snapshot or TypedVerb.Bitmap => option is "--secret",
            TypedVerb.Resize => option is "--secret" or "--format" or "--shrink",
            _ => false,
        };
    }

    [GeneratedRegex(@"--[a-z][a-z-]+|-o '?[a-z0-9_]+|(?<= )-[a-zA-Z](?= |;|,|$)|^-[a-zA-Z](?= )")]
    private static partial Regex OptionWord();

    [GeneratedRegex(@"(qemu-img|qcow2fuse|umount|apt|docker/podman) .*")]
    private static partial Regex OtherCommand();

    [GeneratedRegex(@"backing.(?:file|format)[= ]'?(\S+)")]
    private static partial Regex ChoiceOfFile();
}
