// SPDX-License-Identifier: MIT
using System.Text.Json.Nodes;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary><c>snapshot</c> beside <c>qemu-img snapshot</c>, each working on what the other made.</summary>
public sealed class SnapshotTests : CommandTest
{
    [SkippableTheory]
    [InlineData("compat=1.1")]
    [InlineData("compat=0.10")]
    [InlineData("cluster_size=512")]
    [InlineData("extended_l2=on,cluster_size=2M")]
    public void Each_program_works_on_the_snapshots_of_the_other(string options)
    {
        QemuTools.RequireTool("qemu-img");
        string disk = PathOf("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, disk, "4M");
        QemuTools.Io(disk, "write -P 1 0 1M", "write -P 1 3M 64k");
        Silent("-c", "ours");
        QemuTools.ShouldPassCheck(disk);
        QemuTools.Io(disk, "write -P 2 512k 1M");
        QemuTools.Img("snapshot", "-c", "theirs", disk);
        QemuTools.Io(disk, "write -P 3 0 4M");
        ShouldListAlike();

        QemuTools.Img("convert", "-f", "qcow2", "-O", "raw", "-l", "ours", disk, PathOf("ours.raw"));
        byte[] ours = File.ReadAllBytes(PathOf("ours.raw"));
        Assert.Equal(1, ours[1048575]);
        Assert.Equal(0, ours[1048576]);
        Assert.Equal(1, ours[3 << 20]);

        Silent("-a", "theirs");
        QemuTools.ShouldPassCheck(disk);
        QemuTools.Io(disk, "read -P 1 0 512k", "read -P 2 512k 1M", "read -P 0 1536k 1M", "read -P 1 3M 64k");
        QemuTools.Img("snapshot", "-a", "ours", disk);
        QemuTools.ShouldPassCheck(disk);
        QemuTools.Io(disk, "read -P 1 0 1M", "read -P 0 1M 2M");
        Silent("-d", "ours");
        QemuTools.ShouldPassCheck(disk);
        ShouldListAlike();
        QemuTools.Img("snapshot", "-d", "theirs", disk);
        QemuTools.ShouldPassCheck(disk);
        Assert.Equal("", Run("snapshot", "-l", "disk.qcow2").ShouldSucceed().Output);
        QemuTools.Io(disk, "read -P 1 0 1M", "read -P 0 1M 2M");
    }

    [SkippableFact]
    public void The_disk_takes_the_size_of_the_snapshot()
    {
        QemuTools.RequireTool("qemu-img");
        string disk = PathOf("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", disk, "1M");
        Silent("-c", "small");
        QemuTools.Img("resize", "-q", disk, "3G");
        Silent("-c", "large");
        Silent("-a", "small");
        Assert.Equal(1 << 20, SizeOf(disk));
        Silent("-a", "2");
        Assert.Equal(3L << 30, SizeOf(disk));
        QemuTools.ShouldPassCheck(disk);
    }

    [SkippableFact]
    public void Failures_are_one_line_and_exit_code_1()
    {
        ProcessResult made = Run("create", "-q", "disk.qcow2", "1M");
        made.ShouldSucceed();
        const string None = "qcow2fuse: DIR/disk.qcow2: has no snapshot 'none'\n";
        ShouldPrint(1, "", None, "snapshot", "-a", "none", PathOf("disk.qcow2"));
        ShouldPrint(1, "", None, "snapshot", "-d", "none", PathOf("disk.qcow2"));
        const string Mixed = "qcow2fuse: -l, -c, -a and -d exclude each other\n";
        ShouldPrint(1, "", Mixed, "snapshot", "-l", "-c", "x", "disk.qcow2");
        OneLine.Error(Run("snapshot", "-U", "-c", "x", "disk.qcow2"), "looking only");
        OneLine.Error(Run("snapshot", "-l", "absent.qcow2"), "absent.qcow2");
    }

    [SkippableFact]
    public void An_external_data_file_is_refused()
    {
        QemuTools.RequireTool("qemu-img");
        string options = $"data_file={PathOf("data.img")}";
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, PathOf("disk.qcow2"), "1M");
        foreach (string option in (string[])["-c", "-a", "-d"])
            OneLine.Error(Run("snapshot", option, "x", "disk.qcow2"), "external data file");
    }

    [SkippableFact]
    public void An_image_in_use_is_only_looked_at()
    {
        QemuTools.RequireTool("qemu-storage-daemon");
        QemuTools.Img("create", "-q", "-f", "qcow2", PathOf("disk.qcow2"), "8M");
        QemuTools.Img("snapshot", "-c", "one", PathOf("disk.qcow2"));
        using StorageDaemon daemon = StorageDaemon.Open(PathOf("disk.qcow2"));
        OneLine.Error(Run("snapshot", "-c", "two", "disk.qcow2"), "qemu-storage");
        OneLine.Error(Run("snapshot", "-l", "disk.qcow2"), "qemu-storage");
        Assert.Contains(
            "one", Run("snapshot", "-U", "-l", "disk.qcow2").ShouldSucceed().Output, StringComparison.Ordinal);
    }

    private static long SizeOf(string disk) =>
        (long)JsonNode.Parse(QemuTools.Img("info", "--output=json", disk))!["virtual-size"]!;

    private void Silent(params string[] arguments)
    {
        ProcessResult result = Run(["snapshot", .. arguments, "disk.qcow2"]).ShouldSucceed();
        Assert.Equal("", result.Output + result.Error);
    }

    private void ShouldListAlike()
    {
        string theirs =
            ProcessRunner.Run("qemu-img", ["snapshot", "-l", "disk.qcow2"], WorkDirectory).ShouldSucceed().Output;
        Assert.Equal(theirs, Run("snapshot", "-l", "disk.qcow2").ShouldSucceed().Output);
        JsonNode info = JsonNode.Parse(
            ProcessRunner.Run("qemu-img", ["info", "--output=json", "disk.qcow2"], WorkDirectory).Output)!;
        JsonNode ours = JsonNode.Parse(Run("snapshot", "--output=json", "-l", "disk.qcow2").ShouldSucceed().Output)!;
        Assert.True(JsonNode.DeepEquals(info["snapshots"], ours), $"{info["snapshots"]}\n{ours}");
    }
}
