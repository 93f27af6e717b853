// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>What cannot be mounted is refused in one line, and leaves neither a mount nor a process.</summary>
public sealed class BadInputTests : MountTest
{
    [SkippableFact]
    public void A_missing_image() => ShouldRefuse(PathOf("none.qcow2"), "none.qcow2");

    [SkippableFact]
    public void A_directory_that_the_mount_would_cover()
    {
        Directory.CreateDirectory(PathOf("mnt/images"));
        ShouldRefuse(PathOf("mnt/images"), "covered by the mount");
        ShouldRefuse(PathOf("mnt"), "covered by the mount");
    }

    [SkippableFact]
    public void A_fifo_as_image()
    {
        RequireMounting();
        Tool("mkfifo", PathOf("fifo.qcow2"));
        ShouldRefuse(PathOf("fifo.qcow2"), "FIFO");
    }

    [SkippableFact]
    public void An_empty_file() => ShouldRefuse(FileOf([]), "not an image");

    [SkippableFact]
    public void Garbage() => ShouldRefuse(FileOf(Stamp.Bytes(0, 100_000, 3)), "not an image");

    [SkippableFact]
    public void A_file_that_is_only_a_magic() => ShouldRefuse(FileOf([(byte)'Q', (byte)'F', (byte)'I', 0xfb]), "qcow2");

    /// <summary>One field of the header with a value that must not be believed: offset, bytes, value.</summary>
    [SkippableTheory]
    [InlineData(4, 4, 4)]
    [InlineData(4, 4, 0xffffffff)]
    [InlineData(20, 4, 0)]
    [InlineData(20, 4, 8)]
    [InlineData(20, 4, 64)]
    [InlineData(24, 8, -1)]
    [InlineData(36, 4, 0xffffffff)]
    [InlineData(40, 8, 12345)]
    [InlineData(40, 8, 0x7fff_ffff_ffff_0000)]
    [InlineData(48, 8, 0)]
    [InlineData(56, 4, 0xffffffff)]
    [InlineData(60, 4, 0xffffffff)]
    [InlineData(72, 8, 0x8000_0000)]
    [InlineData(96, 4, 7)]
    [InlineData(100, 4, 50)]
    [InlineData(100, 4, 0x7fffffff)]
    public void A_hostile_header(int offset, int bytes, long value)
    {
        string image = NewImage();
        byte[] field = new byte[8];
        BinaryPrimitives.WriteInt64BigEndian(field, value);
        using (FileStream file = File.OpenWrite(image))
        {
            file.Position = offset;
            file.Write(field.AsSpan(8 - bytes));
        }

        ShouldRefuse(image, "disk.qcow2");
    }

    [SkippableTheory]
    [InlineData(50)]
    [InlineData(200)]
    [InlineData(65536)]
    [InlineData(65536 * 3 + 5)]
    public void A_truncated_image(long length)
    {
        string image = NewImage();
        using (FileStream file = File.OpenWrite(image))
            file.SetLength(length);
        ShouldRefuse(image, "disk.qcow2");
    }

    [SkippableFact]
    public void An_encrypted_image()
    {
        QemuTools.RequireTool("qemu-img");
        string image = PathOf("disk.qcow2");
        QemuTools.Img(
            "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=geheim", "-o",
            "encrypt.format=aes,encrypt.key-secret=s", image, "1M");
        ShouldRefuse(image, "encrypt");
    }

    [SkippableFact]
    public void A_missing_backing_file()
    {
        QemuTools.RequireTool("qemu-img");
        string image = PathOf("top.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-u", "-b", "gone.raw", "-F", "raw", image, "1M");
        ShouldRefuse(image, "gone.raw");
    }

    [SkippableFact]
    public void A_backing_file_outside_of_the_directory_needs_leave()
    {
        using TempDirectory elsewhere = new();
        string mountPoint = NewMountPoint();
        QemuTools.RequireTool("qemu-img");
        File.WriteAllBytes(elsewhere.File("base.raw"), Stamp.Bytes(0, 1 << 20, 7));
        string image = PathOf("top.qcow2");
        QemuTools.Img(
            "create", "-q", "-f", "qcow2", "-b", elsewhere.File("base.raw"), "-F", "raw", image);
        ShouldRefuse(image, "--allow-path");

        string raw = Mount(image, mountPoint, "-o", $"allow_path={elsewhere.Path}");
        Assert.Equal(Stamp.Bytes(0, 1 << 20, 7), File.ReadAllBytes(raw));
        Unmount(mountPoint);
        raw = Mount(image, mountPoint, "--allow-path", elsewhere.Path);
        Assert.Equal(1 << 20, new FileInfo(raw).Length);
    }

    [SkippableTheory]
    [InlineData("ENOSYS")]
    [InlineData("EPERM")]
    public void A_system_without_openat2(string answer)
    {
        string mountPoint = NewMountPoint();
        string bottom = NewImage("1M", name: "base.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", PathOf("top.qcow2"));
        ProcessResult result = TryTool(
            "strace", "-f", "-qq", "-o", "/dev/null", "-e", $"inject=openat2:error={answer}",
            FindProgram()!, "mount", PathOf("top.qcow2"), mountPoint);
        Assert.Equal(32, result.ExitCode);
        OneLine.Error(result, "there is no openat2 here (before Linux 5.6, or in an old container)");
        Assert.Contains("hint: name the file yourself: --backing-file FILE\n", result.Error, StringComparison.Ordinal);
        _ = Mount(PathOf("top.qcow2"), mountPoint, "--backing-file", bottom);
    }

    /// <summary>A hint for the top image would have left the layer between out, and its data with it.</summary>
    [SkippableFact]
    public void The_hint_about_a_layer_in_the_middle_leads_to_the_data_of_all_layers()
    {
        string mountPoint = NewMountPoint();
        string bottom = NewImage("1M", name: "bottom.qcow2");
        QemuTools.Img(
            "create", "-q", "-f", "qcow2", "-u", "-b", "json:{\"driver\":\"qcow2\"}", "-F", "qcow2",
            PathOf("mid.qcow2"), "1M");
        QemuTools.Img(
            "create", "-q", "-f", "qcow2", "-u", "-b", "mid.qcow2", "-F", "qcow2", PathOf("top.qcow2"), "1M");
        byte[] data = Stamp.Bytes(0, 65536, 3);
        string raw = Mount(PathOf("mid.qcow2"), mountPoint, "--backing-file", bottom);
        using (FileStream file = File.OpenWrite(raw))
            file.Write(data);
        Unmount(mountPoint);

        ShouldRefuse(PathOf("top.qcow2"), "mid.qcow2: the backing file 'json:");
        Assert.Contains(
            "hint: name the file yourself: -o backing_file=@1=FILE\n", Run(PathOf("top.qcow2"), mountPoint).Error,
            StringComparison.Ordinal);
        raw = Mount(PathOf("top.qcow2"), mountPoint, "--backing-file", $"@1={bottom}");
        Assert.Equal(data, File.ReadAllBytes(raw)[..data.Length]);
        Unmount(mountPoint);
        ProcessResult none = Run(
            PathOf("top.qcow2"), mountPoint, "--backing-file", $"@1={bottom}", "-o", $"backing_file=@7={bottom}");
        Assert.Equal(32, none.ExitCode);
        OneLine.Error(none, "has no layer 7");
    }

    [SkippableFact]
    public void A_data_file_outside_of_the_directory_is_neither_read_nor_written()
    {
        using TempDirectory elsewhere = new();
        QemuTools.RequireTool("qemu-img");
        string canary = elsewhere.File("canary");
        string image = PathOf("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", $"data_file={canary}", image, "1M");
        byte[] content = Stamp.Bytes(0, 1 << 20, 7);
        File.WriteAllBytes(canary, content);
        ShouldRefuse(image, "--data-file");
        Assert.Equal(content, File.ReadAllBytes(canary));
    }

    [SkippableFact]
    public void A_chain_that_bites_its_tail()
    {
        QemuTools.RequireTool("qemu-img");
        string image = PathOf("a.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-u", "-b", "a.qcow2", "-F", "qcow2", image, "1M");
        ShouldRefuse(image, "twice");
    }

    [SkippableFact]
    public void A_name_that_moves_the_cursor()
    {
        string image = NewImage(name: "evil\u001b[2J\n.qcow2");
        File.WriteAllBytes(image, []);
        ShouldRefuse(image, "evil");
    }

    [SkippableFact]
    public void A_missing_mount_point()
    {
        RequireMounting();
        ProcessResult result = Run(NewImage(), PathOf("missing"));
        Assert.Equal(32, result.ExitCode);
        OneLine.Error(result, "mount point does not exist");
    }

    [SkippableFact]
    public void A_kernel_without_dev_fuse()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        string program = FindProgram() ?? throw new InvalidOperationException("out/qcow2fuse is not built");
        ProcessResult result = TryTool(
            "unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev && exec \"$0\" \"$@\"", program, image, mountPoint);
        Assert.Equal(32, result.ExitCode);
        OneLine.Error(result, "/dev/fuse");
        Assert.Contains("hint: ", result.Error, StringComparison.Ordinal);
        Assert.Empty(DaemonsOf(mountPoint));
    }

    /// <summary>The kernel then keeps no exit codes of children.</summary>
    [SkippableFact]
    public void A_caller_that_ignores_the_end_of_children()
    {
        RequireMounting();
        string mountPoint = NewMountPoint();
        string program = FindProgram() ?? throw new InvalidOperationException("out/qcow2fuse is not built");
        ProcessResult result = TryTool("env", "--ignore-signal=CHLD", program, PathOf("none.qcow2"), mountPoint);
        Assert.Equal((32, ""), (result.ExitCode, result.Output));
        OneLine.Error(result, "none.qcow2");
        Assert.Empty(DaemonsOf(mountPoint));
    }

    private string FileOf(byte[] content)
    {
        string path = PathOf("odd.qcow2");
        File.WriteAllBytes(path, content);
        return path;
    }

    private void ShouldRefuse(string image, string expected)
    {
        string mountPoint = NewMountPoint();
        byte[]? before = File.Exists(image) && !image.Contains("fifo", StringComparison.Ordinal)
            ? File.ReadAllBytes(image)
            : null;
        ProcessResult result = Run(image, mountPoint);
        Assert.Equal((32, ""), (result.ExitCode, result.Output));
        OneLine.Error(result, expected);
        Assert.False(IsMounted(mountPoint));
        Assert.Empty(DaemonsOf(mountPoint));
        if (before is not null)
            Assert.Equal(before, File.ReadAllBytes(image));
    }
}
