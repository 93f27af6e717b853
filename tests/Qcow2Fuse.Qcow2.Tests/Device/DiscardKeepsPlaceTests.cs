// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Discards that give storage back to the host while the image keeps its place (discard=no-unref).</summary>
public sealed class DiscardKeepsPlaceTests
{
    private const int Size = 4 << 20;
    private const int Cluster = 65536;

    private static readonly FormatOpenArguments KeepsPlace = new() { Discard = DiscardMode.NoUnref };

    [Fact]
    public void A_discarded_cluster_is_zero_and_is_written_again_at_its_place()
    {
        using TestImage image = Create();
        image.Write(0, 1 << 20, 7).Device.Flush();
        long place = image.Plain.Locate(0).HostOffset;
        image.Device.Discard(0, Cluster);
        image.Device.Flush();
        image.ShouldReadZeroes(0, Cluster).ShouldRead(Cluster, Cluster, 7).Write(0, Cluster, 8).Device.Flush();
        Assert.Equal(place, image.Plain.Locate(0).HostOffset);
        image.ShouldRead(0, Cluster, 8).ShouldPassCheck();
    }

    [Fact]
    public void A_discard_leaves_what_a_snapshot_shares()
    {
        using TestImage image = Create();
        var device = (Qcow2Device)image.Device;
        image.Write(0, 1 << 20, 7);
        device.CreateSnapshot("s");
        image.Device.Discard(0, 1 << 20);
        image.Device.Flush();
        image.ShouldReadZeroes(0, 1 << 20);
        SnapshotHolds(device, 0, Stamp.Bytes(0, 1 << 20, 7));
        image.ShouldPassCheck();
        device.ApplySnapshot("s");
        image.ShouldRead(0, 1 << 20, 7).ShouldPassCheck();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Discards_before_and_after_a_snapshot_leave_both_sides_right(bool extendedL2)
    {
        using TestImage image = Create(extendedL2);
        var device = (Qcow2Device)image.Device;
        image.Write(0, 1 << 20, 7).Device.Flush();
        image.Device.Discard(0, 1 << 19);
        device.CreateSnapshot("s");
        image.Write(0, 1 << 18, 9).Device.Discard(0, 1 << 20);
        SnapshotHolds(device, 0, new byte[1 << 19]);
        SnapshotHolds(device, 1 << 19, Stamp.Bytes(1 << 19, 1 << 19, 7));
        image.ShouldPassCheck(allowLeaks: true);
        device.DeleteSnapshot("s");
        image.Write(4096, 100, 3).Reopen().ShouldPassCheck();
        image.ShouldReadZeroes(0, 4096).ShouldRead(4096, 100, 3).ShouldReadZeroes(4196, (1 << 20) - 4196);
    }

    [Fact]
    public void A_close_gives_back_what_no_flush_has_given_back()
    {
        using TestImage image = Create();
        image.Write(0, 1 << 20, 7).Device.Flush();
        long place = image.Plain.Locate(0).HostOffset;
        image.Order.Clear();
        image.Device.Discard(0, 1 << 20);
        image.Close();
        RecordedRequest[] discards = [.. image.Order.Requests.Where(static request => request.Op == BlockOp.Discard)];
        Assert.Equal(1 << 20, discards.Sum(static request => request.Length));
        Assert.All(discards, request => Assert.InRange(request.Offset, place, place + (1 << 20) - request.Length));
        image.ShouldPassCheck().Reopen().ShouldReadZeroes(0, 1 << 20).ShouldPassCheck();
    }

    /// <summary>The file ends where the guest's bytes end, and no discard may reach beyond.</summary>
    [Fact]
    public void The_last_cluster_of_the_file_may_end_inside_it()
    {
        using TestImage image = Create();
        image.Write(0, 4096, 7).Device.Flush();
        image.Device.Discard(0, Cluster);
        image.Device.Flush();
        image.ShouldReadZeroes(0, Cluster).ShouldPassCheck();
    }

    [Fact]
    public void The_last_cluster_of_a_file_of_the_host_may_end_inside_it()
    {
        using TempDirectory directory = new();
        string path = directory.File("image.qcow2");
        using (FileDevice file = FileDevice.Create(path))
            Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = Size });
        using (Qcow2Device device = Qcow2Device.Open(FileDevice.Open(path), KeepsPlace))
        {
            device.Write(0, Stamp.Bytes(0, 4096, 3));
            device.Flush();
            device.Discard(0, Cluster);
            device.Flush();
        }

        using (Qcow2Device device = Qcow2Device.Open(FileDevice.Open(path), KeepsPlace))
        {
            byte[] seen = new byte[Cluster];
            device.Read(0, seen);
            Assert.Equal(-1, seen.AsSpan().IndexOfAnyExcept((byte)0));
        }

        if (QemuTools.HasQemuImg)
            QemuTools.ShouldPassCheck(path);
    }

    private static TestImage Create(bool extendedL2 = false) =>
        TestImage.Create(new Qcow2CreateOptions { Size = Size, ExtendedL2 = extendedL2 }, arguments: KeepsPlace);

    private static void SnapshotHolds(Qcow2Device device, long offset, byte[] expected)
    {
        using BlockDevice snapshot = device.OpenSnapshot("s");
        byte[] seen = new byte[expected.Length];
        snapshot.Read(offset, seen);
        Assert.True(expected.AsSpan().SequenceEqual(seen), "the snapshot holds something else");
    }
}
