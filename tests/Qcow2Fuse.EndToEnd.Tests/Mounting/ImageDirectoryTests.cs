// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>A directory of images as source.</summary>
public sealed class ImageDirectoryTests : MountTest
{
    private const int Mebibyte = 1 << 20;

    private string Images => PathOf("images");

    [SkippableFact]
    public void Images_appear_and_vanish_as_they_do_on_disk()
    {
        string mountPoint = NewDirectoryMount("mail.qcow2");
        File.WriteAllText(Path.Combine(Images, "notes.txt"), "no image");
        Assert.Equal(["mail.raw"], NamesIn(mountPoint));
        Assert.Equal(64 * Mebibyte, new FileInfo(Path.Combine(mountPoint, "mail.raw")).Length);

        NewImage("8M", name: "images/web.img");
        Assert.Equal(["mail.raw", "web.raw"], NamesIn(mountPoint));
        Assert.Equal(8 * Mebibyte, new FileInfo(Path.Combine(mountPoint, "web.raw")).Length);
        NewImage("9M", name: "images/web.qcow2");
        Assert.Equal(3, NamesIn(mountPoint).Length);

        File.Delete(Path.Combine(Images, "mail.qcow2"));
        Assert.DoesNotContain("mail.raw", NamesIn(mountPoint));
        WaitUntil(() => !File.Exists(Path.Combine(mountPoint, "mail.raw")), "mail.raw does not vanish");

        // Names depend on the files alone, not on which was there first.
        Assert.Equal(["metrics", "web", "web.img"], NamesIn(Path.Combine(mountPoint, ".qcow2fuse")));
        WaitUntil(
            () => new FileInfo(Path.Combine(mountPoint, "web.raw")).Length == 9 * Mebibyte,
            "web.raw is not the image that has the name now");
        Assert.Equal(8 * Mebibyte, new FileInfo(Path.Combine(mountPoint, "web.img.raw")).Length);
    }

    [SkippableFact]
    public void A_partition_and_an_image_do_not_share_a_name()
    {
        QemuTools.RequireTool("sfdisk");
        string mountPoint = NewDirectoryMount("disk.qcow2");
        string raw = Path.Combine(mountPoint, "disk.raw");
        Tool("sh", "-c", $"printf 'label: dos\\nstart=2048,size=4096\\n' | sfdisk -q {raw}");
        NewImage("4M", name: "images/disk.p1.qcow2");
        Assert.Equal(["disk.p1.qcow2.raw", "disk.p1.raw", "disk.raw"], NamesIn(mountPoint));
        Assert.Equal(4096 * 512, new FileInfo(Path.Combine(mountPoint, "disk.p1.raw")).Length);
        Assert.Equal(4 * Mebibyte, new FileInfo(Path.Combine(mountPoint, "disk.p1.qcow2.raw")).Length);
    }

    /// <summary>Names are bytes: those that are no text are shown too, and none is taken for another.</summary>
    [SkippableFact]
    public void Names_that_are_no_text_are_shown_as_their_bytes()
    {
        string mountPoint = NewDirectoryMount("a.qcow2");
        string script = """
            cd "$1"
            cp a.qcow2 "$(printf 'caf\351.qcow2')"
            qemu-img create -q -f qcow2 "$(printf 'caf\350.qcow2')" 8M
            stat -c %s "$2/$(printf 'caf\351.raw')" "$2/$(printf 'caf\350.raw')"
            stat "$2/$(printf 'caf\357\277\275.raw')" 2>/dev/null || echo none
            ls "$2" | od -An -c | tr -d ' \n'
            rm caf*
            """;
        Assert.Equal(
            "67108864\n8388608\nnone\na.raw\\ncaf350.raw\\ncaf351.raw\\n",
            Tool("env", "LC_ALL=C", "bash", "-c", script, "bash", Images, mountPoint));
    }

    [SkippableFact]
    public void An_image_is_open_while_it_is_used_and_for_some_seconds()
    {
        string mountPoint = NewDirectoryMount("a.qcow2", "b.qcow2");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Tool("ls", "-l", mountPoint);
        Assert.Empty(OpenImages(daemon));

        byte[] content = Stamp.Bytes(0, Mebibyte, 3);
        string raw = Path.Combine(mountPoint, "a.raw");
        using (FileStream file = new(raw, FileMode.Open, FileAccess.ReadWrite))
        {
            file.Write(content);
            Assert.Equal(["a.qcow2"], OpenImages(daemon));

            // The other one is used later, and closed when that is some seconds ago.
            using (FileStream other = File.OpenRead(Path.Combine(mountPoint, "b.raw")))
            {
                other.ReadExactly(new byte[4096]);
                Assert.Contains("b.qcow2", OpenImages(daemon));
            }

            WaitUntil(() => !OpenImages(daemon).Contains("b.qcow2"), "the other image stays open");
            Assert.Equal(["a.qcow2"], OpenImages(daemon));
        }

        WaitUntil(() => OpenImages(daemon).Length == 0, "the image stays open");
        string image = Path.Combine(Images, "a.qcow2");
        QemuTools.ShouldPassCheck(image);

        // Others may change it now, and what the kernel had cached of it is gone.
        Assert.Equal(content, QemuTools.ConvertToRaw(image)[..Mebibyte]);
        QemuTools.Io(image, "write -P 9 0 64k");
        byte[] shown = new byte[65536];
        using (FileStream file = File.OpenRead(raw))
            file.ReadExactly(shown);
        Assert.False(shown.AsSpan().ContainsAnyExcept((byte)9));
    }

    [SkippableFact]
    public void An_image_that_cannot_be_opened_leaves_the_others_alone()
    {
        Directory.CreateDirectory(Images);
        File.WriteAllBytes(Path.Combine(Images, "broken.qcow2"), Stamp.Bytes(0, 100_000, 1));
        Directory.CreateDirectory(Path.Combine(Images, "folder.qcow2"));
        string orphan = NewImage(name: "images/orphan.qcow2", options: "compat=1.1");
        QemuTools.Img("rebase", "-u", "-b", "gone.qcow2", "-F", "qcow2", orphan);
        string mountPoint = NewDirectoryMount("good.qcow2");

        Assert.Equal(["broken.raw", "good.raw", "orphan.raw"], NamesIn(mountPoint));
        Assert.Contains("Input/output error",
            TryTool("cat", Path.Combine(mountPoint, "broken.raw")).Error, StringComparison.Ordinal);
        Assert.NotEqual(0, TryTool("cat", Path.Combine(mountPoint, "orphan.raw")).ExitCode);
        Assert.Equal(64 * Mebibyte, File.ReadAllBytes(Path.Combine(mountPoint, "good.raw")).Length);
        Assert.Contains("cluster_size",
            File.ReadAllText(Path.Combine(mountPoint, ".qcow2fuse/good/info")), StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Partitions_of_all_images_are_listed_without_keeping_them_open()
    {
        string mountPoint = NewDirectoryMount("a.qcow2", "b.qcow2");
        string raw = Path.Combine(mountPoint, "a.raw");
        Tool(
            "sh", "-ec", "printf 'label: gpt\nsize=2048\n' | PATH=$PATH:/usr/sbin:/sbin sfdisk -q --no-reread "
            + "--no-tell-kernel \"$1\"", "sh", raw);
        Assert.Equal(["a.p1.raw", "a.raw", "b.raw"], NamesIn(mountPoint));
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        WaitUntil(() => OpenImages(daemon).Length == 0, "the image stays open");
        Assert.Equal(["a.p1.raw", "a.raw", "b.raw"], NamesIn(mountPoint));
        Assert.Equal(Mebibyte, new FileInfo(Path.Combine(mountPoint, "a.p1.raw")).Length);
        Assert.Empty(OpenImages(daemon));
    }

    [SkippableFact]
    public void A_hundred_images_are_shown_and_written()
    {
        Directory.CreateDirectory(Images);
        string first = NewImage("1M", name: "images/000.qcow2");
        for (int i = 1; i < 100; i++)
            File.Copy(first, Path.Combine(Images, i.ToString("000", CultureInfo.InvariantCulture) + ".qcow2"));
        string mountPoint = NewDirectoryMount();
        string[] names = NamesIn(mountPoint);
        Assert.Equal(100, names.Length);
        foreach (string name in names)
            File.OpenWrite(Path.Combine(mountPoint, name)).Dispose();
        Tool("sh", "-ec", "for f in \"$1\"/*.raw; do echo hello | dd of=$f conv=notrunc,fsync status=none; done", "sh",
            mountPoint);
        Unmount(mountPoint);
        foreach (string name in (string[])["000", "042", "099"])
        {
            string image = Path.Combine(Images, name + ".qcow2");
            QemuTools.ShouldPassCheck(image);
            Assert.Equal("hello\n"u8.ToArray(), QemuTools.ConvertToRaw(image)[..6]);
        }
    }

    [SkippableFact]
    public void A_window_is_for_one_image()
    {
        Directory.CreateDirectory(Images);
        ProcessResult result = Run("mount", "-o", "partition=1", Images, NewMountPoint());
        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result, "is a directory");
    }

    private string NewDirectoryMount(params string[] images)
    {
        Directory.CreateDirectory(Images);
        foreach (string image in images)
            NewImage(name: "images/" + image);
        string mountPoint = NewMountPoint();
        Run("mount", Images, mountPoint).ShouldSucceed();
        return mountPoint;
    }

    /// <summary>The images that a process has open.</summary>
    private string[] OpenImages(int process) =>
    [
        .. Directory.EnumerateFileSystemEntries($"/proc/{process}/fd")
            .Select(TargetOf)
            .Where(target => target.StartsWith(Images + "/", StringComparison.Ordinal))
            .Select(static target => Path.GetFileName(target)!)
            .Distinct(StringComparer.Ordinal),
    ];

    private static string TargetOf(string link)
    {
        try
        {
            return File.ResolveLinkTarget(link, returnFinalTarget: false)?.FullName ?? "";
        }
        catch (IOException)
        {
            // Closed meanwhile.
            return "";
        }
    }

    private static string[] NamesIn(string directory) =>
    [
        .. Directory.GetFileSystemEntries(directory).Select(static path => Path.GetFileName(path)!)
            .Order(StringComparer.Ordinal),
    ];
}
