// SPDX-License-Identifier: MIT
using Qcow2Fuse.Settings;
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

    [SkippableTheory]
    [InlineData("NOEXEC", "option noexec=maybe: must be on or off")]
    [InlineData("SYNC", "option sync=maybe: must be on or off")]
    [InlineData("NOPARTITIONS", "option nopartitions=maybe: must be on or off")]
    public void The_value_of_every_flag_is_read(string variable, string message)
    {
        SetEnvironment("QCOW2FUSE_" + variable, "maybe");
        Complains(message);
    }

    [Theory]
    [InlineData("{}", "noexec,exec", "exec")]
    [InlineData("{}", "sync,async", "async")]
    [InlineData("{}", "async,sync", "sync")]
    [InlineData("{}", "sync=off", "async")]
    [InlineData("{}", "dirsync=off", "")]
    [InlineData("""{ "noexec": false }""", "", "exec")]
    [InlineData("""{ "noexec": true }""", "", "noexec")]
    [InlineData("""{ "noexec": true }""", "exec", "exec")]
    public void Of_a_flag_and_its_opposite_the_last_counts(string file, string words, string flags)
    {
        File.WriteAllText(PathOf("settings.json"), file);
        OptionList options = new();
        options.AddWords(words);
        MountSettings settings = SettingsLoader.Load([PathOf("settings.json")], options, source: null, directory: null);
        Assert.Equal(flags, string.Join(',', settings.KernelFlags));
    }

    [Theory]
    [InlineData("""{ "nopartitions": true }""", false)]
    [InlineData("""{ "nopartitions": "off" }""", true)]
    [InlineData("""{ "partitions": "off" }""", false)]
    public void Opposites_are_read_from_files(string file, bool partitions)
    {
        File.WriteAllText(PathOf("settings.json"), file);
        Assert.Equal(partitions, SettingsLoader.Load(
            [PathOf("settings.json")], new OptionList(), source: null, directory: null).Partitions);
    }

    [SkippableFact]
    public void A_variable_with_a_typing_error_is_warned_of()
    {
        SetEnvironment("QCOW2FUSE_CAHCE", "none");
        SetEnvironment("QCOW2FUSE_OF_SOMEBODY_ELSE", "1");
        ProcessResult result = Run("mount", "none.qcow2", WorkDirectory);
        Assert.Contains(
            "QCOW2FUSE_CAHCE is not known (did you mean QCOW2FUSE_CACHE?)", result.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("SOMEBODY", result.Error, StringComparison.Ordinal);
        Assert.Single(result.Error.Split('\n'), static line => line.Contains("CAHCE", StringComparison.Ordinal));
    }

    /// <summary>A clean-up is not kept from its work by a word that means nothing to it.</summary>
    [SkippableFact]
    public void Umount_takes_nothing_but_the_directory_from_settings()
    {
        WriteSettings($$"""{ "cahce": "none", "threads": "many", "directory": "{{WorkDirectory}}" }""");
        Assert.Equal(32, Run("umount").ExitCode);
        Assert.Equal(0, Run("umount", "-q").ExitCode);
        WriteSettings("{}");
        Assert.Equal(0, Run("umount", "-q").ExitCode);
        Assert.Equal(1, Run("umount").ExitCode);
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
