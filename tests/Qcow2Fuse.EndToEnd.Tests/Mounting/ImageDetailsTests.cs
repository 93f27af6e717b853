// SPDX-License-Identifier: MIT
using System.Text.Json.Nodes;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>The hidden directory and the extended attributes.</summary>
public sealed class ImageDetailsTests : MountTest
{
    private const int Mebibyte = 1 << 20;

    [SkippableFact]
    public void The_directory_is_found_but_not_listed_and_cannot_be_written()
    {
        string mountPoint = NewMountPoint();
        string raw = Mount(NewImage(), mountPoint);
        Assert.Equal([raw], Directory.GetFileSystemEntries(mountPoint));
        string hidden = Path.Combine(mountPoint, ".qcow2fuse");
        Assert.Equal(["disk", "metrics"], NamesIn(hidden));
        Assert.Equal(
            ["info", "layers", "map", "snapshots", "unreferenced.raw"], NamesIn(Path.Combine(hidden, "disk")));
        Assert.Contains("Read-only file system",
            TryTool("sh", "-c", "echo x > \"$1\"", "sh", Path.Combine(hidden, "metrics")).Error,
            StringComparison.Ordinal);
        Assert.NotEqual(0, TryTool("rm", "-rf", hidden).ExitCode);
        Assert.Equal("400", Tool("stat", "-c", "%a", Path.Combine(hidden, "disk", "info")).Trim());
    }

    [SkippableFact]
    public void Info_is_what_the_command_prints()
    {
        string image = NewChain();
        string mountPoint = NewMountPoint();
        Mount(image, mountPoint);
        string shown = File.ReadAllText(Path.Combine(mountPoint, ".qcow2fuse/disk/info"));
        Assert.Equal(Run("info", "-U", image).ShouldSucceed().Output, shown);
    }

    [SkippableFact]
    public void The_map_is_that_of_qemu()
    {
        string image = NewChain();
        JsonArray expected = JsonNode.Parse(QemuTools.Img("map", "--output=json", image))!.AsArray();
        string mountPoint = NewMountPoint();
        Mount(image, mountPoint);
        string[] lines = File.ReadAllLines(Path.Combine(mountPoint, ".qcow2fuse/disk/map"));
        Assert.Equal(
            expected.Select(static extent => extent!.ToJsonString()),
            lines.Select(static line =>
            {
                // qemu-img 7.2 does not know it yet.
                JsonObject extent = JsonNode.Parse(line)!.AsObject();
                extent.Remove("compressed");
                return extent.ToJsonString();
            }));
        Assert.True(lines.Length > 4, $"only {lines.Length} extents");
    }

    [SkippableFact]
    public void Each_layer_is_shown_alone()
    {
        string image = NewChain();
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        string layers = Path.Combine(mountPoint, ".qcow2fuse/disk/layers");
        Assert.Equal(["0.raw", "1.raw"], NamesIn(layers));
        byte[] top = File.ReadAllBytes(Path.Combine(layers, "0.raw"));
        byte[] below = File.ReadAllBytes(Path.Combine(layers, "1.raw"));
        Assert.Equal((8 * Mebibyte, 4 * Mebibyte), (top.Length, below.Length));
        byte[] expected = new byte[8 * Mebibyte];
        expected.AsSpan(Mebibyte, 65536).Fill(2);
        Assert.Equal(expected, top);
        Assert.Equal(QemuTools.ConvertToRaw(PathOf("base.qcow2")), below);

        // The top layer is the one in use.
        Tool("sh", "-c", "printf abc | dd of=\"$1\" bs=1 seek=7000000 conv=notrunc,fsync status=none", "sh", raw);
        Assert.Equal("abc"u8.ToArray(), File.ReadAllBytes(Path.Combine(layers, "0.raw"))[7000000..7000003]);
        Assert.NotEqual(0, TryTool("truncate", "-s", "1", Path.Combine(layers, "0.raw")).ExitCode);
        Assert.NotEqual(
            0, TryTool("dd", "if=/dev/zero", $"of={layers}/1.raw", "count=1", "conv=notrunc").ExitCode);
    }

    [SkippableFact]
    public void Snapshots_are_shown_side_by_side_with_the_present()
    {
        string image = NewImage("4M");
        QemuTools.Io(image, "write -P 1 0 64k");
        QemuTools.Img("snapshot", "-c", "first", image);
        QemuTools.Io(image, "write -P 2 0 64k");
        QemuTools.Img("snapshot", "-c", "a/b", image);
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        string snapshots = Path.Combine(mountPoint, ".qcow2fuse/disk/snapshots");

        // A name that no file can have gives way to the id.
        Assert.Equal(["2.raw", "first.raw"], NamesIn(snapshots));
        Tool("sh", "-c", "printf abc | dd of=\"$1\" conv=notrunc,fsync status=none", "sh", raw);
        foreach ((string name, byte value) in ((string, byte)[])[("first", 1), ("2", 2)])
        {
            byte[] content = File.ReadAllBytes(Path.Combine(snapshots, name + ".raw"));
            Assert.Equal(4 * Mebibyte, content.Length);
            Assert.False(content.AsSpan(0, 65536).ContainsAnyExcept(value));
            Assert.False(content.AsSpan(65536).ContainsAnyExcept((byte)0));
        }

        Assert.NotEqual(
            0, TryTool("dd", "if=/dev/zero", $"of={snapshots}/first.raw", "count=1", "conv=notrunc").ExitCode);
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
    }

    [SkippableFact]
    public void Metrics_count_what_was_done()
    {
        string mountPoint = NewMountPoint();
        string raw = Mount(NewImage(), mountPoint);
        Tool("dd", "if=/dev/zero", $"of={raw}", "bs=1M", "count=3", "oflag=direct", "conv=notrunc,fsync",
            "status=none");
        Tool("dd", $"if={raw}", "of=/dev/null", "bs=1M", "count=2", "iflag=direct", "status=none");
        string[] lines = File.ReadAllLines(Path.Combine(mountPoint, ".qcow2fuse/metrics"));
        Assert.Equal("# EOF", lines[^1]);
        Assert.Contains("qcow2fuse_bytes_total{image=\"disk\",op=\"write\"} 3145728", lines);
        Assert.Contains("qcow2fuse_bytes_total{image=\"disk\",op=\"read\"} 2097152", lines);
        Assert.Contains("qcow2fuse_requests_total{image=\"disk\",op=\"flush\"} 1", lines);
        Assert.Contains("qcow2fuse_image_open{image=\"disk\"} 1", lines);
        Assert.All(
            lines[..^1],
            static line => Assert.Matches(
                @"^(# (TYPE|HELP|UNIT) \w+ .+|(\w+\{image=""disk""[^}]*\}|qcow2fuse_managed_\w+) \d+(\.\d+)?)$", line));
    }

    [SkippableFact]
    public void Extended_attributes_tell_what_the_image_is()
    {
        string image = NewChain();
        string raw = Mount(image);
        string text = Tool("getfattr", "-d", "--absolute-names", raw);
        Assert.Equal(
            [
                $"# file: {raw}",
                "user.qcow2fuse.backing-file=\"base.qcow2\"",
                "user.qcow2fuse.cluster-size=\"65536\"",
                "user.qcow2fuse.format=\"qcow2\"",
                $"user.qcow2fuse.image=\"{image}\"",
                "user.qcow2fuse.virtual-size=\"8388608\"",
            ],
            text.Split('\n', StringSplitOptions.RemoveEmptyEntries).Order(StringComparer.Ordinal));
        Assert.NotEqual(0, TryTool("getfattr", "-n", "user.qcow2fuse.none", raw).ExitCode);
        Assert.Equal("", Tool("getfattr", "-d", Path.GetDirectoryName(raw)!));
    }

    [SkippableFact]
    public void A_mount_over_the_directory_of_the_image_still_tells()
    {
        string image = NewImage(name: "mnt-over.qcow2");
        string mountPoint = NewMountPoint();
        string inside = Path.Combine(mountPoint, "disk.qcow2");
        File.Move(image, inside);
        Mount(inside, mountPoint);
        Assert.Contains(
            "cluster_size: 65536",
            File.ReadAllText(Path.Combine(mountPoint, ".qcow2fuse/disk/info")),
            StringComparison.Ordinal);
        Assert.Contains("65536", Tool("getfattr", "-d", Path.Combine(mountPoint, "disk.raw")),
            StringComparison.Ordinal);
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(inside);
    }

    private static string[] NamesIn(string directory) =>
    [
        .. Directory.GetFileSystemEntries(directory).Select(static path => Path.GetFileName(path)!)
            .Order(StringComparer.Ordinal),
    ];

    /// <summary>8 MiB over 4 MiB: data, compressed clusters and zeroes in the lower one, data in the upper one.
    /// </summary>
    private string NewChain()
    {
        string lower = NewImage("4M", name: "base.qcow2");
        QemuTools.Io(lower, "write -P 1 0 256k", "write -c -P 3 2M 128k", "write -z 3M 64k");
        string image = PathOf("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", image, "8M");
        QemuTools.Io(image, "write -P 2 1M 64k");
        return image;
    }
}
