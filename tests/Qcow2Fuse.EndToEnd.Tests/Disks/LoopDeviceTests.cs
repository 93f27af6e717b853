// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Disks;

/// <summary>A file system made and used in the image through a loop device, judged by e2fsck and qemu-img.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class LoopDeviceTests(FileTree tree) : IClassFixture<FileTree>
{
    [SkippableTheory]
    [InlineData("off", "writeback")]
    [InlineData("on", "writeback")]
    [InlineData("off", "none")]
    public void A_file_system_made_copied_trimmed_and_unmounted_is_clean(string extendedL2, string cache)
    {
        QemuTools.RequireTool("qemu-img");
        QemuTools.RequireTool("mkfs.ext4");
        QemuTools.Require(File.Exists("/dev/loop-control"), "there are no loop devices");
        using TempDirectory directory = new();
        string image = directory.File("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", $"extended_l2={extendedL2}", image, "300M");

        string hash;
        using (MountedImage mounted = MountedImage.Start(image, directory.File("mnt"), "-o", "cache=" + cache))
        {
            Succeed("mkfs.ext4", "-q", "-F", mounted.RawFile);
            CopyTreeThroughLoop(mounted.RawFile, directory.File("fs"));
            hash = mounted.Hash();
            mounted.Unmount();
        }

        QemuTools.ShouldPassCheck(image);
        string raw = directory.File("converted.raw");
        QemuTools.Img("convert", "-f", "qcow2", "-O", "raw", image, raw);
        Succeed("e2fsck", "-fn", raw);
        using FileStream converted = File.OpenRead(raw);
        Assert.Equal(Convert.ToHexString(System.Security.Cryptography.SHA256.HashData(converted)), hash);
    }

    private void CopyTreeThroughLoop(string raw, string directory)
    {
        Directory.CreateDirectory(directory);
        string loop = Succeed("losetup", "--direct-io=on", "--find", "--show", raw).Trim();
        try
        {
            Succeed("mount", "-t", "ext4", loop, directory);
            try
            {
                Succeed("cp", "-a", tree.Root, directory);
                Succeed("cp", "-a", tree.Root, Path.Combine(directory, "again"));
                Succeed("rm", "-r", Path.Combine(directory, "again"));
                Succeed("sync", "-f", directory);
                Succeed("fstrim", directory);
                Succeed(
                    "diff", "-r", "--no-dereference", tree.Root, Path.Combine(directory, Path.GetFileName(tree.Root)));
            }
            finally
            {
                Succeed("umount", directory);
            }
        }
        finally
        {
            Succeed("losetup", "--detach", loop);
        }
    }

    private static string Succeed(string program, params string[] arguments) =>
        ProcessRunner.Run(program, arguments, timeout: TimeSpan.FromMinutes(3)).ShouldSucceed().Output;
}
