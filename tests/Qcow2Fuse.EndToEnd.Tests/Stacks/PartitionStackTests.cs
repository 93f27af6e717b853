// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Stacks;

/// <summary>Partitions in <c>run</c>, <c>attach</c> and <c>mount --fs</c>.</summary>
public sealed class PartitionStackTests : StackTest
{
    private const long SecondSize = 30 << 20;

    [SkippableFact]
    public void A_command_finds_the_partitions_in_its_environment()
    {
        string image = NewPartitionedImage();
        ProcessResult result = Run(
            "run", "-r", image, "--", "sh", "-c", "env | grep ^QCOW2FUSE_P | sort | sed 's,=.*/,=,'");
        Assert.Equal("QCOW2FUSE_P1=disk.p1.raw\nQCOW2FUSE_P2=disk.p2.raw\n", result.ShouldSucceed().Output);
    }

    [SkippableFact]
    public void One_partition_is_attached_by_its_number()
    {
        RequireLoopDevices();
        string image = NewPartitionedImage();
        string device = Run("attach", "--partition", "2", image).ShouldSucceed().Output.Trim();
        Assert.Equal($"{SecondSize / 512}\n", File.ReadAllText($"/sys/block/{Path.GetFileName(device)}/size"));
        string mountPoint = Assert.Single(MountPointsOf(image));
        Run("detach", device).ShouldSucceed();
        ShouldBeGone(image, mountPoint);

        ProcessResult missing = Run("attach", "--partition", "7", image);
        Assert.Equal(32, missing.ExitCode);
        OneLine.Error(missing, "has no partition 7");
        Assert.Empty(MountPointsOf(image));
    }

    [SkippableFact]
    public void The_file_system_of_a_partition_is_mounted_in_one_step()
    {
        RequireLoopDevices();
        string image = NewPartitionedImage();
        Run("run", image, "--", "sh", "-c", "mkfs.ext4 -q -F \"$QCOW2FUSE_P2\"").ShouldSucceed();
        string directory = PathOf("fs");
        Directory.CreateDirectory(directory);
        Run("mount", "--fs", "-o", "rw", image + ":2", directory).ShouldSucceed();
        string mountPoint = Assert.Single(MountPointsOf(image));
        try
        {
            Assert.Equal("ext4", Tool("findmnt", "-rno", "FSTYPE", directory).Trim());
            File.WriteAllText(Path.Combine(directory, "hello"), "there");
        }
        finally
        {
            Run("umount", directory).ShouldSucceed();
        }

        ShouldBeGone(image, mountPoint);
        QemuTools.ShouldPassCheck(image);
        Assert.Equal(0, Run("run", "-r", image, "--", "sh", "-c", "e2fsck -fn \"$QCOW2FUSE_P2\"").ExitCode);
    }

    /// <summary>What is for the file system inside the image reaches that, and the last word for a flag counts.
    /// </summary>
    [SkippableTheory]
    [InlineData("ro,noload", "noload|norecovery")]
    [InlineData("noatime,atime,nodiratime,fs_options=data_err=abort", "data_err=abort")]
    [InlineData("fs_options=commit=77", "commit=77")]
    public void Options_of_the_inner_file_system_reach_it(string options, string expected)
    {
        RequireLoopDevices();
        string image = NewPartitionedImage();
        Run("run", image, "--", "sh", "-c", "mkfs.ext4 -q -F \"$QCOW2FUSE_P2\"").ShouldSucceed();
        string directory = PathOf("fs");
        Directory.CreateDirectory(directory);
        Run("mount", "--fs", "-o", options, image + ":2", directory).ShouldSucceed();
        try
        {
            string[] words = Tool("findmnt", "-rno", "OPTIONS", directory).Trim().Split(',');
            Assert.Contains(words, word => expected.Split('|').Contains(word));
            Assert.DoesNotContain("noatime", words);
        }
        finally
        {
            Run("umount", directory).ShouldSucceed();
        }
    }

    [SkippableFact]
    public void A_directory_is_no_image()
    {
        RequireMounting();
        ProcessResult result = Run("run", WorkDirectory, "--", "true");
        Assert.Equal(125, result.ExitCode);
        OneLine.Error(result, "is a directory");
    }

    private string NewPartitionedImage()
    {
        RequireMounting();
        QemuTools.RequireTool("sfdisk");
        string image = NewImage();
        Run(
            "run", image, "--", "sh", "-c",
            "printf 'label: gpt\\nsize=20M\\nsize=30M\\n' | PATH=$PATH:/sbin sfdisk -q \"$QCOW2FUSE_DISK\"")
            .ShouldSucceed();
        return image;
    }
}
