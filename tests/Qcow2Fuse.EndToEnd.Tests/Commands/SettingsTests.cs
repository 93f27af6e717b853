// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary>
/// Where the settings of a mount come from. A value that makes no sense is named by the program, which shows whose
/// value it took; nothing is mounted.
/// </summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed class SettingsTests : CommandTest
{
    [SkippableFact]
    public void The_environment_is_stronger_than_the_file_and_the_command_line_than_both()
    {
        WriteSettings("""{ "cache": "file" }""");
        Complains("option cache=file");
        SetEnvironment("QCOW2FUSE_CACHE", "environment");
        Complains("option cache=environment");
        Complains("option cache=words", "-o", "cache=words");
        Complains("option cache=long", "-o", "cache=words", "--cache", "long");
    }

    [SkippableFact]
    public void An_empty_variable_counts_as_none()
    {
        SetEnvironment("QCOW2FUSE_CACHE", "");
        Complains("none.qcow2");
    }

    [SkippableFact]
    public void A_broken_settings_file_is_named_with_its_line()
    {
        WriteSettings("{\n  \"cache\": \"none\",\n  oops\n}\n");
        ProcessResult result = Complains("qcow2fuse.json: line 3: ");
        Assert.Equal(1, result.ExitCode);
    }

    [SkippableFact]
    public void An_unknown_setting_in_a_file_is_an_error()
    {
        WriteSettings("""{ "cahce": "none" }""");
        Assert.Equal(1, Complains("unknown setting cahce").ExitCode);
    }

    [SkippableFact]
    public void Source_and_directory_may_come_from_settings()
    {
        SetEnvironment("QCOW2FUSE_SOURCE", PathOf("other.qcow2"));
        SetEnvironment("QCOW2FUSE_DIRECTORY", WorkDirectory);
        ProcessResult result = Run("mount");
        Assert.Equal(32, result.ExitCode);
        OneLine.Error(result, "other.qcow2");
    }

    [SkippableTheory]
    [InlineData("nonsense", "unknown option nonsense")]
    [InlineData("cache", "needs a value")]
    [InlineData("threads=0", "must be a number of 1 to 256")]
    [InlineData("umask=9", "octal")]
    [InlineData("l2_cache_size=much", "must be a size")]
    [InlineData("rw=off", "takes no value")]
    [InlineData("secret=x", "must be file:PATH, fd:N")]
    public void A_wrong_option_is_one_clear_error(string words, string message)
    {
        ProcessResult result = Complains(message, "-o", words);
        Assert.Equal(1, result.ExitCode);
    }

    [SkippableTheory]
    [InlineData("_netdev,user,users,owner,group,nouser,defaults,auto,noauto,dev,suid,exec")]
    [InlineData("x-systemd.automount,x-anything=3,comment=words,nonempty,kernel_cache,auto_cache,direct_io")]
    public void Words_of_others_are_ignored(string words) =>
        Assert.Equal(32, Complains("none.qcow2", "-o", words).ExitCode);

    [SkippableFact]
    public void An_unknown_long_option_is_one_clear_error()
    {
        ProcessResult result = Run("mount", "--nonsense", "a", "b");
        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result, "--nonsense");
    }

    private ProcessResult Complains(string about, params string[] arguments)
    {
        ProcessResult result = Run(["mount", .. arguments, PathOf("none.qcow2"), WorkDirectory]);
        OneLine.Error(result, about);
        return result;
    }

    private void WriteSettings(string json)
    {
        string directory = PathOf("config/qcow2fuse");
        Directory.CreateDirectory(directory);
        File.WriteAllText(Path.Combine(directory, "qcow2fuse.json"), json);
        SetEnvironment("XDG_CONFIG_HOME", PathOf("config"));
    }
}
