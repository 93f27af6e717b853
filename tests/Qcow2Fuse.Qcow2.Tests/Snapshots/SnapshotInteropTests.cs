// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Snapshots;

/// <summary>Snapshots that QEMU made, read here at their own size; and ours, read by QEMU.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class SnapshotInteropTests
{
    [SkippableTheory]
    [InlineData("compat=1.1")]
    [InlineData("cluster_size=512")]
    [InlineData("cluster_size=4k,compression_type=zstd")]
    [InlineData("extended_l2=on")]
    public void Snapshots_of_qemu_have_their_own_size_and_content(string options)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string path = directory.File("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, path, "2M");
        QemuTools.Io(path, "write -P 1 0 1M", "write -c -P 5 1M 64k");
        QemuTools.Img("snapshot", "-c", "two megabytes", path);
        QemuTools.Img("resize", "-q", path, "4M");
        QemuTools.Io(path, "write -P 2 512k 1M", "write -P 3 3M 1M");
        QemuTools.Img("snapshot", "-c", "four megabytes", path);
        QemuTools.Img("snapshot", "-a", "two megabytes", path);
        QemuTools.Io(path, "write -P 4 0 2M");

        using Qcow2Device device = Open(path);
        using BlockDevice two = device.OpenSnapshot("two megabytes");
        using BlockDevice four = device.OpenSnapshot("2");
        Assert.Equal(2 << 20, two.Length);
        Assert.Equal(4 << 20, four.Length);
        ShouldBe(two, (1, 1 << 20), (5, 64 << 10), (0, 960 << 10));
        ShouldBe(four, (1, 512 << 10), (2, 1 << 20), (0, 1536 << 10), (3, 1 << 20));
        ShouldBe(device, (4, 2 << 20));
        device.WriteZeroes(0, 1 << 20, mayUnmap: true);
        ShouldBe(two, (1, 1 << 20), (5, 64 << 10), (0, 960 << 10));
    }

    [SkippableTheory]
    [InlineData("compat=0.10")]
    [InlineData("compat=1.1")]
    [InlineData("cluster_size=4k")]
    [InlineData("cluster_size=2M,extended_l2=on")]
    public void Our_snapshots_are_those_of_qemu(string options)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string path = directory.File("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, path, "6M");
        byte[] first;
        using (Qcow2Device device = Open(path))
        {
            device.Write(12345, Stamp.Bytes(12345, 3 << 20, 1));
            device.CreateSnapshot("first");
            first = All(device);
            device.Write(0, Stamp.Bytes(0, 2 << 20, 2));
            device.CreateSnapshot("second");
            device.Write(1 << 20, Stamp.Bytes(1 << 20, 4 << 20, 3));
        }

        QemuTools.ShouldPassCheck(path);
        string raw = directory.File("first.raw");
        QemuTools.Img("convert", "-f", "qcow2", "-O", "raw", "-l", "first", path, raw);
        Assert.True(first.AsSpan().SequenceEqual(File.ReadAllBytes(raw)));
        QemuTools.Img("snapshot", "-a", "first", path);
        QemuTools.ShouldPassCheck(path);
        Assert.True(first.AsSpan().SequenceEqual(QemuTools.ConvertToRaw(path)));
        QemuTools.Io(path, "write -P 9 0 6M");
        using (Qcow2Device device = Open(path))
        {
            using (BlockDevice opened = device.OpenSnapshot("first"))
                Assert.True(first.AsSpan().SequenceEqual(All(opened)));
            device.DeleteSnapshot("second");
            device.ApplySnapshot("first");
            device.DeleteSnapshot("first");
            Assert.True(first.AsSpan().SequenceEqual(All(device)));
            device.Write(0, Stamp.Bytes(0, 1 << 20, 4));
        }

        QemuTools.ShouldPassCheck(path);
    }

    [SkippableFact]
    public void An_entry_of_64_extra_bytes_is_one_for_qemu()
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        using TestImage image = TestImage.Create(version: 3, clusterSize: 65536, extendedL2: false);
        image.Write(0, 65536, tag: 1);
        var device = (Qcow2Device)image.Device;
        device.CreateSnapshot("one");
        image.Close();
        long table = (long)image.PeekBigEndian(64);
        image.Poke(table + 36, 64, bytes: 4).Poke(table + 64, 7).Poke(table + 104, 0x316f_6e65_0000_0000).Reopen();
        ((Qcow2Device)image.Device).CreateSnapshot("two");
        image.Close();
        string list = QemuTools.Img("snapshot", "-l", image.Export(directory));
        Assert.Contains("one ", list, StringComparison.Ordinal);
        Assert.Contains("two ", list, StringComparison.Ordinal);
    }

    /// <summary>The point in time of a snapshot lies between whole writes, whoever writes meanwhile.</summary>
    [Theory]
    [InlineData(512)]
    [InlineData(65536)]
    public async Task A_snapshot_under_four_writers_is_one_moment(int clusterSize)
    {
        const int Writers = 4;
        const int Blocks = 64;
        int block = Math.Min(clusterSize, 4096);
        using TestImage image = TestImage.Create(new Qcow2CreateOptions
        {
            Size = Writers * Blocks * block,
            ClusterSize = clusterSize,
        });
        var device = (Qcow2Device)image.Device;
        using CancellationTokenSource stop = new();
        int written = 0;

        // Each writer goes through its blocks in order with rising tags: at any moment the tags fall at most once.
        Task[] writers = [.. Enumerable.Range(0, Writers).Select(writer => Task.Run(() =>
        {
            for (ulong tag = 1; !stop.IsCancellationRequested; tag++)
            {
                for (int i = 0; i < Blocks; i++)
                {
                    byte[] bytes = new byte[block];
                    bytes.AsSpan().Fill((byte)tag);
                    device.Write(((writer * Blocks) + i) * (long)block, bytes);
                    Interlocked.Increment(ref written);
                }
            }
        }))];
        try
        {
            var kept = new Dictionary<string, byte[]>(StringComparer.Ordinal);
            for (int i = 0; i < 12; i++)
            {
                int before = Volatile.Read(ref written);
                Eventually.Holds(() => Volatile.Read(ref written) - before >= Writers * Blocks
                    || Array.Exists(writers, static writer => writer.IsCompleted));
                string id = device.CreateSnapshot($"s{i}").Id;
                using BlockDevice opened = device.OpenSnapshot(id);
                byte[] seen = All(opened);
                for (int writer = 0; writer < Writers; writer++)
                    ShouldBeOneMoment(seen.AsSpan(writer * Blocks * block, Blocks * block), block);
                kept.Add(id, seen);
                if (i % 3 == 2)
                {
                    string gone = kept.Keys.Min(StringComparer.Ordinal)!;
                    device.DeleteSnapshot(gone);
                    kept.Remove(gone);
                }

                foreach ((string other, byte[] held) in kept)
                {
                    using BlockDevice again = device.OpenSnapshot(other);
                    Assert.True(held.AsSpan().SequenceEqual(All(again)), $"snapshot {other} changed");
                }
            }
        }
        finally
        {
            await stop.CancelAsync();
            await Task.WhenAll(writers);
        }

        image.Reopen().ShouldPassCheck();
    }

    private static void ShouldBeOneMoment(ReadOnlySpan<byte> blocks, int block)
    {
        int changes = 0;
        for (int at = 0; at < blocks.Length; at += block)
        {
            Assert.False(blocks.Slice(at, block).ContainsAnyExcept(blocks[at]), "a block of two writes");
            if (at > 0 && blocks[at] != blocks[at - block])
            {
                changes++;
                Assert.Equal((byte)(blocks[at] + 1), blocks[at - block]);
            }
        }

        Assert.True(changes <= 1, string.Create(CultureInfo.InvariantCulture, $"{changes} changes of the tag"));
    }

    private static Qcow2Device Open(string path) =>
        Qcow2Device.Open(FileDevice.Open(path, readOnly: false), new FormatOpenArguments());

    private static byte[] All(BlockDevice device)
    {
        byte[] bytes = new byte[device.Length];
        device.Read(0, bytes);
        return bytes;
    }

    private static void ShouldBe(BlockDevice device, params (int Value, int Length)[] runs)
    {
        byte[] bytes = All(device);
        int at = 0;
        foreach ((int value, int length) in runs)
        {
            Assert.False(bytes.AsSpan(at, length).ContainsAnyExcept((byte)value), $"{at}+{length} is not all {value}");
            at += length;
        }

        Assert.Equal(bytes.Length, at);
    }
}
