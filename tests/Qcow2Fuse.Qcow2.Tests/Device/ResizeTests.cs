// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Disks that grow and shrink.</summary>
public sealed class ResizeTests
{
    private const int SizeMax = 4 << 20;
    private const int RequestsMax = 2000;

    [SkippableTheory]
    [InlineData("compat=0.10", null, 1)]
    [InlineData("cluster_size=512", null, 2)]
    [InlineData("cluster_size=4k", SizeMax / 2, 3)]
    [InlineData("cluster_size=64k", SizeMax * 2, 4)]
    [InlineData("extended_l2=on,cluster_size=16k", SizeMax * 2, 5)]
    [InlineData("extended_l2=on", null, 6)]
    [InlineData("cluster_size=2M", SizeMax * 2, 7)]
    [InlineData("compat=0.10,cluster_size=4k", SizeMax * 2, 8)]
    [Trait(Speed.Name, Speed.Slow)]
    public void Random_sizes_leave_what_a_plain_array_holds(string options, int? backingLength, int seed)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        string backing = directory.File("backing.raw");
        List<string> create = ["create", "-q", "-f", "qcow2", "-o", options];
        byte[] below = backingLength is { } length ? Stamp.Bytes(0, length, 9) : [];
        if (backingLength is not null)
        {
            File.WriteAllBytes(backing, below);
            create.AddRange(["-b", backing, "-F", "raw"]);
        }

        QemuTools.Img([.. create, image, "2M"]);
        byte[] model = new byte[2 << 20];
        below.AsSpan(0, Math.Min(below.Length, model.Length)).CopyTo(model);
        SeededRandom random = new((ulong)seed);
        for (int reopen = 0; reopen < 4; reopen++)
        {
            using (Qcow2Device device = Open(image, backingLength is null ? null : backing))
            {
                for (int step = 0; step < 12; step++)
                {
                    int size = 512 * (1 + random.Below(SizeMax / 512));
                    device.Resize(size);
                    Assert.Equal(size, device.Length);
                    Array.Resize(ref model, size);
                    for (int i = 0; i < 4; i++)
                    {
                        int count = 1 + random.Below(Math.Min(size, 30_000));
                        int at = random.Below(size - count + 1);
                        byte[] data = Stamp.Bytes(at, count, (ulong)(100 + step));
                        device.Write(at, data);
                        data.CopyTo(model, at);
                    }

                    byte[] seen = new byte[size];
                    device.Read(0, seen);
                    Assert.True(model.AsSpan().SequenceEqual(seen), $"step {step}: other bytes are read");
                }
            }

            QemuTools.ShouldPassCheck(image);
            Assert.True(model.AsSpan().SequenceEqual(QemuTools.ConvertToRaw(image)), "QEMU reads other bytes");
        }
    }

    [SkippableTheory]
    [InlineData(Preallocation.Metadata, "cluster_size=64k")]
    [InlineData(Preallocation.Metadata, "cluster_size=512")]
    [InlineData(Preallocation.Falloc, "cluster_size=64k")]
    [InlineData(Preallocation.Falloc, "extended_l2=on")]
    [InlineData(Preallocation.Full, "cluster_size=4k")]
    public void New_space_is_allocated_where_asked(Preallocation mode, string options)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, image, "100k");
        QemuTools.Io(image, "write -P 7 0 100k");
        using (Qcow2Device device = Open(image, null))
        {
            device.Resize(8 << 20, mode);
            Assert.Equal(ExtentKind.Data, device.GetExtent(7 << 20, 512).Kind);
        }

        byte[] expected = new byte[8 << 20];
        expected.AsSpan(0, 100 << 10).Fill(7);
        QemuTools.ShouldPassCheck(image);
        Assert.True(expected.AsSpan().SequenceEqual(QemuTools.ConvertToRaw(image)), "QEMU reads other bytes");
        using FileDevice file = FileDevice.Open(image, readOnly: true);
        Assert.InRange(file.AllocatedBytes, mode == Preallocation.Metadata ? 0 : 8 << 20, 10 << 20);
    }

    [SkippableFact]
    public void A_shrunk_image_gives_its_space_back()
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", image, "64M");
        using (Qcow2Device device = Open(image, null))
        {
            for (int at = 0; at < 64 << 20; at += 1 << 20)
                device.Write(at, Stamp.Bytes(at, 1 << 20, 1));
            device.Resize(1 << 20);
        }

        Assert.InRange(new FileInfo(image).Length, 1 << 20, 2 << 20);
        QemuTools.ShouldPassCheck(image);
        Assert.Equal(Stamp.Bytes(0, 1 << 20, 1), QemuTools.ConvertToRaw(image));
    }

    [SkippableFact]
    public void A_shrink_obeys_snapshots()
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        foreach (string compat in (string[])["0.10", "1.1"])
        {
            string image = directory.File($"image{compat}.qcow2");
            QemuTools.Img("create", "-q", "-f", "qcow2", "-o", $"compat={compat}", image, "4M");
            QemuTools.Io(image, "write -P 3 0 4M");
            QemuTools.Img("snapshot", "-c", "full", image);
            using (Qcow2Device device = Open(image, null))
            {
                if (compat == "0.10")
                {
                    BlockException refused = Assert.Throws<BlockException>(() => device.Resize(1 << 20));
                    Assert.Equal(BlockErrorKind.NotSupported, refused.Kind);

                    // A larger disk would be the snapshot's too.
                    refused = Assert.Throws<BlockException>(() => device.Resize(8 << 20));
                    Assert.Equal(BlockErrorKind.NotSupported, refused.Kind);
                    Assert.Equal(4 << 20, device.Length);
                    continue;
                }

                device.Resize(1 << 20);
            }

            QemuTools.ShouldPassCheck(image);
            QemuTools.Img("snapshot", "-a", "full", image);
            byte[] content = QemuTools.ConvertToRaw(image);
            Assert.Equal(4 << 20, content.Length);
            Assert.Equal(-1, content.AsSpan().IndexOfAnyExcept((byte)3));
        }
    }

    [Theory]
    [InlineData(9)]
    [InlineData(12)]
    [InlineData(16)]
    [InlineData(21)]
    [Trait(Speed.Name, Speed.Slow)]
    public void Growing_to_the_largest_size_takes_few_requests(int clusterBits)
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 4 << 20, ClusterSize = 1 << clusterBits });
        image.Write(0, 100_000, 1).Device.Flush();
        image.Order.Clear();
        image.Faults.ResetCounts();
        long largest = 1L << (clusterBits + clusterBits - 3 + 22);
        image.Device.Resize(largest);
        Assert.Equal(largest, image.Device.Length);

        // The refcount blocks for an L1 table of 32 MiB, or the slices of one L2 table; not 4 million entries.
        Assert.InRange(image.Order.Requests.Count, 1, RequestsMax);
        Assert.InRange(image.Faults.CountOf(BlockOp.Read), 0, RequestsMax);
        image.Write(largest - 512, 512, 2).ShouldRead(0, 100_000, 1).ShouldRead(largest - 512, 512, 2);
        image.Close().ShouldPassCheck();
    }

    [Fact]
    public void Wrong_sizes_are_refused()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 1 << 20, ClusterSize = 512 });
        Assert.Equal(
            BlockErrorKind.OutOfRange, Assert.Throws<BlockException>(() => image.Device.Resize(1000)).Kind);
        Assert.Equal(
            BlockErrorKind.TooLarge, Assert.Throws<BlockException>(() => image.Device.Resize(1L << 40)).Kind);
        Assert.Equal(1 << 20, image.Device.Length);
    }

    private static Qcow2Device Open(string image, string? backing) => Qcow2Device.Open(
        FileDevice.Open(image, readOnly: false),
        new FormatOpenArguments { Backing = backing is null ? null : FileDevice.Open(backing, readOnly: true) });
}
