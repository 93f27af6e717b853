// SPDX-License-Identifier: MIT
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary>Words of <c>-o</c> that are meant for others than the daemon.</summary>
public sealed class OptionWordTests
{
    [Theory]
    [InlineData("nouuid", "nouuid")]
    [InlineData("norecovery,noload", "norecovery,noload")]
    [InlineData("subvol=@home", "subvol=@home")]
    [InlineData(@"subvol=a\,b", "subvol=\"a,b\"")]
    [InlineData(@"fs_options=x\,y=1,fs_options=z", "x,y=1,z")]
    public void Options_of_the_file_system_inside_reach_it_and_not_the_daemon(string words, string passed)
    {
        OptionList options = new();
        options.AddWords("noatime," + words);
        MountSettings settings = SettingsLoader.Load([], options, "a", "b");
        Assert.Equal(
            passed.Split(',').Order(StringComparer.Ordinal),
            string.Join(',', settings.FileSystemOptions).Split(',').Order(StringComparer.Ordinal));
        Assert.Equal(["noatime"], options.ToWords());
    }

    [Theory]
    [InlineData("context=\"system_u:object_r:virt_image_t:s0:c1,c2\",ro", "system_u:object_r:virt_image_t:s0:c1,c2")]
    [InlineData("ro,context=system_u:object_r:virt_image_t:s0", "system_u:object_r:virt_image_t:s0")]
    [InlineData("ro,context=\"a\"", "a")]
    public void A_label_is_taken_as_mount_hands_it_over(string words, string label)
    {
        OptionList options = new();
        options.AddWords(words);
        MountSettings settings = SettingsLoader.Load([], options, "a", "b");
        Assert.Equal([("context", label)], settings.SecurityOptions);
        Assert.True(settings.ReadOnly);
    }

    [Theory]
    [InlineData("fsname=\"a", "\"a")]
    [InlineData("fsname=a\"b", "a\"b")]
    public void Other_quotes_are_part_of_the_value(string words, string value)
    {
        OptionList options = new();
        options.AddWords(words);
        Assert.Equal(value, SettingsLoader.Load([], options, "a", "b").SourceName);
    }

    [Fact]
    public void A_mount_goes_on_whatever_is_said_of_its_beginning()
    {
        OptionList with = new();
        with.AddWords("mkdir,noatime");
        OptionList without = new();
        without.AddWords("noatime");
        Assert.Equal(
            SettingsLoader.Load([], without, "a", "b").Fingerprint,
            SettingsLoader.Load([], with, "a", "b").Fingerprint);
        Assert.True(SettingsLoader.Load([], with, "a", "b").MakesDirectory);
    }

    [Fact]
    public void An_unknown_word_is_still_an_error()
    {
        OptionList options = new();
        Assert.Throws<CommandException>(() => options.AddWords("nouiud"));
    }
}
