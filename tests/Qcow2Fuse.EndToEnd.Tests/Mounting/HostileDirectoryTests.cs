// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>
/// Root mounts what another user can change: directories of images in which the user puts links, FIFOs and other
/// directories. Nothing that the user cannot read becomes a file of the mount.
/// </summary>
public sealed class HostileDirectoryTests : MountTest
{
    private const string User = "54321";
    private const string Stranger = "54322";

    private string Images => PathOf("images");

    private string Vault => PathOf("vault");

    [SkippableTheory]
    [InlineData("allow_other,uid=" + User)]
    [InlineData("uid=" + User)]
    [InlineData("allow_root")]
    [InlineData("ro")]
    public void A_users_links_and_the_files_of_others_are_no_images(string options)
    {
        Prepare();
        File.CreateSymbolicLink(Path.Combine(Images, "x.qcow2"), Path.Combine(Vault, "secret.qcow2"));
        File.CreateSymbolicLink(Path.Combine(Images, "inside.qcow2"), "his.qcow2");
        File.Copy(Path.Combine(Vault, "secret.qcow2"), Path.Combine(Images, "strange.qcow2"));
        Tool("chown", Stranger, Path.Combine(Images, "strange.qcow2"));
        string mountPoint = NewMountPoint();
        Run("mount", "-o", options, Images, mountPoint).ShouldSucceed();
        Assert.Equal(["his.raw"], NamesIn(mountPoint));
        Assert.False(File.Exists(Path.Combine(mountPoint, "x.raw")));
        Assert.Equal(["his", "metrics"], NamesIn(Path.Combine(mountPoint, ".qcow2fuse")));
    }

    [SkippableFact]
    public void Ones_own_links_are_followed_where_nobody_else_enters()
    {
        Prepare();
        Tool("chown", "-R", "0", Images);
        File.CreateSymbolicLink(Path.Combine(Images, "x.qcow2"), Path.Combine(Vault, "secret.qcow2"));
        string mountPoint = NewMountPoint();
        Run("mount", Images, mountPoint).ShouldSucceed();
        Assert.Equal(["his.raw", "x.raw"], NamesIn(mountPoint));
        Assert.Equal("TOPSECRET", FirstBytes(Path.Combine(mountPoint, "x.raw"), 9));
    }

    [SkippableFact]
    public void An_image_exchanged_for_a_link_is_not_opened_by_its_old_name()
    {
        Prepare();
        string mountPoint = NewMountPoint();
        Run("mount", "-o", "allow_other,uid=" + User, Images, mountPoint).ShouldSucceed();
        Assert.Equal(["his.raw"], NamesIn(mountPoint));

        // The name is in the kernel's cache and in the daemon's list, and the file has not been opened yet.
        string image = Path.Combine(Images, "his.qcow2");
        File.Delete(image);
        File.CreateSymbolicLink(image, Path.Combine(Vault, "secret.qcow2"));
        foreach (string name in (string[])["his.raw", ".qcow2fuse/his/info", ".qcow2fuse/his/map"])
        {
            ProcessResult result = TryTool("head", "-c", "1000", Path.Combine(mountPoint, name));
            Assert.DoesNotContain("TOPSECRET", result.Output, StringComparison.Ordinal);
            Assert.DoesNotContain("secret", result.Output, StringComparison.Ordinal);
        }

        Assert.DoesNotContain("TOPSECRET", TryTool(
            "sh", "-c", "cat \"$1\"/.qcow2fuse/his/layers/*.raw", "sh", mountPoint).Output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void The_directory_is_the_one_that_was_mounted_whatever_takes_its_name()
    {
        Prepare();
        string mountPoint = NewMountPoint();
        Run("mount", "-o", "allow_other", Images, mountPoint).ShouldSucceed();
        Directory.Move(Images, PathOf("away"));
        Directory.CreateSymbolicLink(Images, Vault);
        Assert.Equal("ORDINARY", FirstBytes(Path.Combine(mountPoint, "his.raw"), 8));
        File.Copy(PathOf("away/his.qcow2"), PathOf("away/new.qcow2"));
        WaitUntil(() => NamesIn(mountPoint).Contains("new.raw"), "the new image does not appear");
        Assert.Equal(["his.raw", "new.raw"], NamesIn(mountPoint));
    }

    [SkippableTheory]
    [InlineData("sub/base.qcow2", "sub/base.qcow2")]
    [InlineData("link.qcow2", null)]
    [InlineData("linked/base.qcow2", null)]
    [InlineData("strange.qcow2", null)]
    [InlineData(".hidden/base.qcow2", null)]
    [InlineData("../vault/secret.qcow2", null)]
    public void What_an_image_of_a_users_directory_names_follows_the_same_rules(string backing, string? opened)
    {
        Prepare();
        string sub = Path.Combine(Images, "sub");
        Directory.CreateDirectory(sub);
        Directory.CreateDirectory(Path.Combine(Images, ".hidden"));
        foreach (string copy in (string[])["sub/base.qcow2", ".hidden/base.qcow2", "strange.qcow2"])
            File.Copy(Path.Combine(Vault, "secret.qcow2"), Path.Combine(Images, copy));
        File.CreateSymbolicLink(Path.Combine(Images, "link.qcow2"), "sub/base.qcow2");
        Directory.CreateSymbolicLink(Path.Combine(Images, "linked"), "sub");
        QemuTools.Img(
            "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "qcow2", Path.Combine(Images, "top.qcow2"), "1M");
        Tool("chown", "-R", User, Images);
        Tool("chown", Stranger, Path.Combine(Images, "strange.qcow2"));
        string mountPoint = NewMountPoint();
        Run("mount", "-o", "allow_other,uid=" + User, Images, mountPoint).ShouldSucceed();
        ProcessResult result = TryTool("head", "-c", "9", Path.Combine(mountPoint, "top.raw"));
        Assert.Equal(opened is not null, result.Output == "TOPSECRET");
        Assert.Equal(opened is not null, result.ExitCode == 0);
    }

    [SkippableFact]
    public void FIFOs_and_devices_are_no_images_and_nothing_waits_for_them()
    {
        Prepare();
        Tool("mkfifo", Path.Combine(Images, "fifo.qcow2"), Path.Combine(Images, "fifo"));
        Tool("mknod", Path.Combine(Images, "null.qcow2"), "c", "1", "3");
        Tool("mknod", Path.Combine(Images, "loop.qcow2"), "b", "7", "200");
        foreach (string owner in (string[])[User, "0"])
        {
            Tool("chown", "-R", owner, Images);
            string mountPoint = NewMountPoint("mnt" + owner);
            Run("mount", Images, mountPoint).ShouldSucceed();
            Assert.Equal(["his.raw"], NamesIn(mountPoint));
            Unmount(mountPoint);
        }
    }

    [SkippableFact]
    public void A_hidden_backing_file_needs_to_be_allowed()
    {
        Prepare();
        Directory.CreateDirectory(Path.Combine(Vault, ".ssh"));
        File.WriteAllText(Path.Combine(Vault, ".ssh/id"), "TOPSECRET".PadRight(512));
        string top = Path.Combine(Vault, "top.qcow2");
        QemuTools.Img("create", "-q", "-u", "-f", "qcow2", "-b", ".ssh/id", "-F", "raw", top, "512");
        string mountPoint = NewMountPoint();
        ProcessResult refused = Run("mount", top, mountPoint);
        Assert.NotEqual(0, refused.ExitCode);
        Assert.Contains("'.ssh/id' is hidden or lies in a hidden directory", refused.Error, StringComparison.Ordinal);
        Assert.Contains("--allow-path " + Path.Combine(Vault, ".ssh"), refused.Error, StringComparison.Ordinal);
        string raw = Mount(top, mountPoint, "--allow-path", Path.Combine(Vault, ".ssh"));
        Assert.Equal("TOPSECRET", FirstBytes(raw, 9));
    }

    /// <summary>A directory of the user's with an image, and one that only root can enter.</summary>
    private void Prepare()
    {
        RequireMounting();
        Directory.CreateDirectory(Images);
        Directory.CreateDirectory(Vault, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        QemuTools.Io(NewImage("1M", name: "images/his.qcow2"), "write -P 0x4f 0 64k");
        QemuTools.Io(NewImage("1M", name: "vault/secret.qcow2"), "write -P 0x54 0 64k");
        WriteText(Path.Combine(Images, "his.qcow2"), "ORDINARY");
        WriteText(Path.Combine(Vault, "secret.qcow2"), "TOPSECRET");
        Tool("chmod", "-R", "go-w", Images);
        Tool("chown", "-R", User, Images);
    }

    private void WriteText(string image, string text)
    {
        string source = PathOf("text");
        File.WriteAllText(source, text);
        QemuTools.Io(image, string.Create(CultureInfo.InvariantCulture, $"write -s {source} 0 {text.Length}"));
    }

    private static string FirstBytes(string file, int count) =>
        Tool("head", "-c", count.ToString(CultureInfo.InvariantCulture), file);

    private static string[] NamesIn(string directory) =>
    [
        .. Directory.GetFileSystemEntries(directory).Select(static path => Path.GetFileName(path)!)
            .Order(StringComparer.Ordinal),
    ];
}
