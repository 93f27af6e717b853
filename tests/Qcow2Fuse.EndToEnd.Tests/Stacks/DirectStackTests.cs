// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Stacks;

/// <summary>What stands on a loop device has no page cache of the host below it, unless the user wants one.</summary>
public sealed class DirectStackTests : StackTest
{
    private const int DirectFlag = 0x4000;
    private const int PathOnlyFlag = 0x200000;

    [SkippableTheory]
    [InlineData("", true)]
    [InlineData("cache=none", true)]
    [InlineData("cache=writeback", false)]
    [InlineData("noatime,cache=writethrough", false)]
    public void Attach_opens_past_the_page_cache(string options, bool isDirect)
    {
        RequireLoopDevices();
        string image = NewChain();
        string[] words = options.Length > 0 ? ["-o", options] : [];
        string device = Run(["attach", .. words, image]).ShouldSucceed().Output.Trim();
        Assert.Equal([isDirect, isDirect], AreDirect(image));
        Run("detach", device).ShouldSucceed();
    }

    [SkippableFact]
    public void A_setting_is_stronger_than_the_default()
    {
        RequireLoopDevices();
        string image = NewChain();
        SetEnvironment("QCOW2FUSE_CACHE", "writeback");
        string device = Run("attach", image).ShouldSucceed().Output.Trim();
        Assert.Equal([false, false], AreDirect(image));
        Run("detach", device).ShouldSucceed();
    }

    [SkippableFact]
    public void A_file_system_without_direct_io_is_served_all_the_same_with_one_message()
    {
        RequireLoopDevices();
        string place = PathOf("ram");
        Directory.CreateDirectory(place);
        Skip.If(TryTool("mount", "-t", "ramfs", "none", place).ExitCode != 0, "there is no ramfs");
        try
        {
            string image = NewImage("16M", name: "ram/disk.qcow2");
            ProcessResult result = Run("attach", image).ShouldSucceed();
            Assert.Equal(
                $"qcow2fuse: {image}: its file system has no O_DIRECT: the page cache of the host is used "
                + "(hint: -o cache=writeback says that this is meant)\n",
                result.Error);
            Assert.Equal([false], AreDirect(image));
            string device = result.Output.Trim();
            Tool("dd", "if=/dev/zero", "of=" + device, "bs=1M", "count=2", "oflag=direct", "status=none");
            Run("detach", device).ShouldSucceed();

            // Who says what he wants gets that, or a refusal.
            Assert.Equal("", Quietly("cache=writeback"));
            OneLine.Error(Run("attach", "-o", "cache=none", image), "its file system has no O_DIRECT");

            string Quietly(string option)
            {
                ProcessResult quiet = Run("attach", "-o", option, image).ShouldSucceed();
                Run("detach", quiet.Output.Trim()).ShouldSucceed();
                return quiet.Error;
            }
        }
        finally
        {
            // What a failure has left attached is not found any more when the file system has gone.
            foreach (string _ in MountPointsOf(PathOf("ram/disk.qcow2")))
                Run("detach", PathOf("ram/disk.qcow2"));
            Tool("umount", "-l", place);
        }
    }

    [SkippableFact]
    public void A_file_system_in_use_stays_and_its_user_is_named()
    {
        RequireLoopDevices();
        string image = NewImage();
        Run("run", image, "--", "sh", "-c", "mkfs.ext4 -q \"$QCOW2FUSE_DISK\"").ShouldSucceed();
        string directory = PathOf("fs");
        Directory.CreateDirectory(directory);
        Run("mount", "--fs", image, directory).ShouldSucceed();
        string mountPoint = Assert.Single(MountPointsOf(image));
        Assert.Equal([true], AreDirect(image));
        using (Process user = Process.Start(new ProcessStartInfo("sleep", ["60"]) { WorkingDirectory = directory })!)
        {
            try
            {
                ProcessResult result = Run("umount", directory);
                Assert.Equal(32, result.ExitCode);
                OneLine.Error(result, $"in use: sleep (pid {user.Id}) stands in it");
            }
            finally
            {
                user.Kill();
                user.WaitForExit();
            }
        }

        Run("umount", directory).ShouldSucceed();
        ShouldBeGone(image, mountPoint);
    }

    /// <summary>Whether the daemon has each file below an image's directory open with O_DIRECT.</summary>
    private static bool[] AreDirect(string image)
    {
        int daemon = Assert.Single(DaemonsOf(Assert.Single(MountPointsOf(image))));
        string directory = Path.GetDirectoryName(image)!;
        return
        [
            .. new DirectoryInfo($"/proc/{daemon}/fd").GetFiles()
                .Where(file => file.LinkTarget is { } target && Path.GetDirectoryName(target) == directory)
                .Select(file => FlagsOf($"/proc/{daemon}/fdinfo/{file.Name}"))
                .Where(static flags => (flags & PathOnlyFlag) == 0)
                .Select(static flags => (flags & DirectFlag) != 0),
        ];
    }

    private static int FlagsOf(string information) => Convert.ToInt32(
        File.ReadLines(information).First(static line => line.StartsWith("flags:", StringComparison.Ordinal))[6..]
            .Trim(), fromBase: 8);

    private string NewChain()
    {
        NewImage("16M", name: "base.qcow2");
        string image = PathOf("disk.qcow2");
        QemuTools.Img(
            "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", image,
            (16 << 20).ToString(CultureInfo.InvariantCulture));
        return image;
    }
}
