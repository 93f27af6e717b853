// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>A write that asks to be durable is durable when it is answered, whoever has to see to it.</summary>
public sealed class SynchronousWriteTests : MountTest
{
    private const int PartitionStart = 1;

    [SkippableTheory]
    [InlineData("dsync", "")]
    [InlineData("sync", "")]
    [InlineData("direct,dsync", "")]
    [InlineData("direct,sync", "")]
    [InlineData("direct,dsync", "cache=none")]
    [InlineData("direct,sync", "cache=none,transport=uring")]
    [InlineData("direct", "sync")]
    [InlineData("direct", "sync,cache=none")]
    [InlineData("", "sync")]
    public void On_the_disk(string flags, string options) => Try(".raw", flags, options);

    [SkippableTheory]
    [InlineData("dsync", "")]
    [InlineData("sync", "cache=none")]
    [InlineData("direct,dsync", "")]
    [InlineData("dsync", "transport=uring")]
    [InlineData("", "sync")]
    public void On_a_partition(string flags, string options) => Try(".p1.raw", flags, options);

    /// <summary>What was written is there although the daemon dies.</summary>
    private void Try(string ending, string flags, string options)
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        Tool("sh", "-c", $"printf 'label: dos\\nstart={PartitionStart}MiB\\n' | sfdisk -q {raw}");
        Unmount(mountPoint);

        _ = options.Contains("uring", StringComparison.Ordinal)
            ? MountOverUring(image, mountPoint, options)
            : options.Length == 0 ? Mount(image, mountPoint) : Mount(image, mountPoint, "-o", options);
        byte[] data = Stamp.Bytes(0, 256 << 10, 7);
        File.WriteAllBytes(PathOf("data"), data);
        string file = Path.ChangeExtension(raw, null) + ending;
        string[] how = flags.Length == 0 ? [] : ["oflag=" + flags];
        Tool("dd", ["if=" + PathOf("data"), "of=" + file, "bs=64k", "seek=64", "conv=notrunc", "status=none", .. how]);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Signal(daemon, "KILL");
        WaitForEnd(daemon);
        Tool("umount", "-l", mountPoint);

        QemuTools.Img("convert", "-O", "raw", image, PathOf("flat"));
        using FileStream flat = File.OpenRead(PathOf("flat"));
        flat.Position = (4 << 20) + (ending == ".raw" ? 0 : PartitionStart << 20);
        byte[] found = new byte[data.Length];
        flat.ReadExactly(found);
        Assert.Equal(data, found);
    }
}
