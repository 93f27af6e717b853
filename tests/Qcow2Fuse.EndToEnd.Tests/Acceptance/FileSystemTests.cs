// SPDX-License-Identifier: MIT
using Qcow2Fuse.EndToEnd.Tests.Disks;
using Qcow2Fuse.EndToEnd.Tests.Stacks;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>The file systems people have in images, made and used through a loop device, judged by their own checkers.
/// </summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class FileSystemTests(FileTree tree) : StackTest, IClassFixture<FileTree>
{
    [SkippableTheory]
    [InlineData("ext4", "mkfs.ext4 -q -F", "e2fsck -fn")]
    [InlineData("xfs", "mkfs.xfs -q -f", "xfs_repair -n -f")]
    [InlineData("btrfs", "mkfs.btrfs -q -f", "btrfs check")]
    public void A_file_system_is_clean_after_work_and_trimming(string type, string make, string check)
    {
        RequireLoopDevices();
        QemuTools.RequireTool(make.Split(' ')[0]);
        QemuTools.RequireTool(check.Split(' ')[0]);
        Skip.IfNot(
            File.ReadLines("/proc/filesystems").Any(line => line.TrimStart() == type)
            || TryTool("modprobe", type).ExitCode == 0,
            $"the kernel has no {type}");
        string image = NewImage("400M", "extended_l2=on");
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        Words(make, raw);
        string inner = PathOf("inner");
        Directory.CreateDirectory(inner);
        string loop = Tool("losetup", "--direct-io=on", "--find", "--show", raw).Trim();
        try
        {
            Tool("mount", "-t", type, loop, inner);
            try
            {
                Work(inner);
            }
            finally
            {
                Umount(inner);
            }
        }
        finally
        {
            Tool("losetup", "--detach", loop);
        }

        WaitUntil(() => LoopsIn(mountPoint).Count == 0, $"{loop} stays");
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
        string disk = PathOf("disk");
        QemuTools.Img("convert", "-f", "qcow2", "-O", "raw", image, disk);
        Words(check, disk);
    }

    private void Work(string inner)
    {
        Tool("cp", "-a", tree.Root, inner);
        Tool("cp", "-a", tree.Root, Path.Combine(inner, "again"));
        Tool("sync", "-f", inner);
        Tool("rm", "-r", Path.Combine(inner, "again"));
        Tool("sync", "-f", inner);
        Tool("fstrim", inner);
        Tool("diff", "-r", "--no-dereference", tree.Root, Path.Combine(inner, Path.GetFileName(tree.Root)));
    }

    private static void Words(string command, string file)
    {
        string[] words = command.Split(' ');
        Tool(words[0], [.. words[1..], file]);
    }
}
