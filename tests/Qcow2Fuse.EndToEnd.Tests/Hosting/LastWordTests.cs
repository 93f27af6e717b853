// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>What a daemon leaves to those who wait for its end.</summary>
public sealed class LastWordTests
{
    [Fact]
    public void What_was_said_is_read_through_proc_after_the_daemon_has_gone()
    {
        int reader;
        using (LastWord word = LastWord.Create())
        {
            reader = LastWord.Open(Environment.ProcessId, OwnNumber());
            Assert.True(reader >= 0);
            Assert.Equal(LastWordKind.None, LastWord.Read(reader, out int session, out _));
            Assert.Equal(-1, session);
            word.Serves(47, "disk.qcow2");
            word.Say(LastWordKind.Lost, "a: EIO");

            // What comes later cannot make it good again.
            word.Say(LastWordKind.Written);
        }

        Assert.Equal(LastWordKind.Lost, LastWord.Read(reader, out int served, out string reason));
        Assert.Equal((47, "a: EIO"), (served, reason));
        _ = LinuxFile.Close(reader);
    }

    /// <summary>A number of a session is given again, so what is mounted counts too.</summary>
    [Fact]
    public void The_mount_of_another_session_of_the_same_number_is_denied()
    {
        using LastWord word = LastWord.Create();
        int reader = LastWord.Open(Environment.ProcessId, OwnNumber());
        MountEntry mount = new(1, 0, "0:47", "/mnt", "fuse.qcow2fuse", "/disk.qcow2", "");
        Assert.False(LastWord.Denies(reader, mount));
        word.Serves(47, "/disk.qcow2");
        word.Say(LastWordKind.Lost, new string('a', 5000));
        Assert.False(LastWord.Denies(reader, mount));
        Assert.True(LastWord.Denies(reader, mount with { Source = "/other.qcow2" }));
        Assert.True(LastWord.Denies(reader, mount with { Device = "0:48" }));
        _ = LinuxFile.Close(reader);
    }

    [Fact]
    public void A_reason_of_any_length_is_cut_between_characters()
    {
        using LastWord word = LastWord.Create();
        int reader = LastWord.Open(Environment.ProcessId, OwnNumber());
        word.Say(LastWordKind.Lost, new string('\u00e9', 5000));
        Assert.Equal(LastWordKind.Lost, LastWord.Read(reader, out _, out string reason));
        Assert.Equal(new string('\u00e9', reason.Length), reason);
        Assert.InRange(reason.Length, 1000, 4000);
        _ = LinuxFile.Close(reader);
    }

    /// <summary>A deleted file of that name shows the same link, and may lie where nobody answers.</summary>
    [Fact]
    public void What_only_has_the_name_is_not_opened()
    {
        using TempDirectory directory = new();
        using FileStream file = File.Create(directory.File("file"));
        string number = ((int)file.SafeFileHandle.DangerousGetHandle()).ToString(CultureInfo.InvariantCulture);
        Assert.Equal(-Errno.ESTALE, LastWord.Open(Environment.ProcessId, number));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(10)]
    [InlineData(4096)]
    public void What_makes_no_sense_says_nothing(int length)
    {
        Assert.Equal(0, SharedPage.Create("qcow2fuse-end", 4096, out SharedPage? page));
        using (page)
        {
            page!.Bytes.Fill(0x7F);
            Assert.Equal(0, LinuxFile.Truncate(page.Descriptor, length));
            Assert.Equal(LastWordKind.None, LastWord.Read(page.Descriptor, out int session, out string reason));
            Assert.Equal((-1, ""), (session, reason));
        }
    }

    private static string OwnNumber() => OpenDescriptors.Of("/proc/self")
        .Last(static open => LastWord.IsLink(open.Target)).Number;
}
