// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>What a write into a cluster of the backing file reads there.</summary>
public sealed class CopiedEdgesTests
{
    private const int Cluster = 65536;
    private const int DiskBytes = 4 * Cluster;
    private const int Piece = 4096;
    private const int At = Cluster + (5 * Piece);

    [Theory]
    // The edges and what is between them; each edge where there is much between them; the one edge there is.
    [InlineData(At, Piece, 1)]
    [InlineData(At, 8 * Piece, 2)]
    [InlineData(Cluster, Piece, 1)]
    [InlineData(Cluster, Cluster, 0)]
    [InlineData((2 * Cluster) - Piece, 2 * Piece, 1)]
    public void The_edges_are_read_at_once_where_they_are_close(int offset, int length, int reads)
    {
        using FaultyDevice backing = Backing();
        using Qcow2Device device = Open(backing);

        Overwrite(device, offset, length);

        Assert.Equal(reads, backing.CountOf(BlockOp.Read));
        ShouldHold(device, offset, length);
    }

    [Fact]
    public void A_bad_sector_that_is_replaced_is_no_failure()
    {
        using FaultyDevice backing = Backing();
        using Qcow2Device device = Open(backing);
        backing.Fail(new FaultRule { Op = BlockOp.Read, Offset = At, Length = Piece, Times = int.MaxValue });

        Overwrite(device, At, Piece);

        Assert.NotEqual(0, backing.FailureCount);
        ShouldHold(device, At, Piece);
    }

    [Fact]
    public void A_read_that_fails_once_fails_the_write()
    {
        using FaultyDevice backing = Backing();
        using Qcow2Device device = Open(backing);
        backing.Fail(new FaultRule { Op = BlockOp.Read });

        Assert.Throws<BlockException>(() => Overwrite(device, At, Piece));

        ShouldHold(device, 0, 0);
    }

    [Fact]
    public void A_bad_sector_of_an_edge_fails_the_write_and_nothing_has_changed()
    {
        using FaultyDevice backing = Backing();
        using Qcow2Device device = Open(backing);
        backing.Fail(new FaultRule { Op = BlockOp.Read, Offset = Cluster, Length = Piece, Times = int.MaxValue });

        BlockException failure = Assert.Throws<BlockException>(() => Overwrite(device, At, Piece));

        Assert.Equal(BlockErrorKind.Io, failure.Kind);
        backing.Heal();
        ShouldHold(device, 0, 0);
    }

    private static FaultyDevice Backing() => new(new BackingDevice(Stamp.Bytes(0, DiskBytes, 0)));

    private static Qcow2Device Open(BlockDevice backing)
    {
        MemoryDevice file = new(0);
        Qcow2Creator.Create(file, new Qcow2CreateOptions
        {
            Size = DiskBytes,
            ClusterSize = Cluster,
            BackingFile = "backing.raw",
            BackingFormat = "raw",
        });
        return Qcow2Device.Open(file, new FormatOpenArguments { Backing = backing });
    }

    private static void Overwrite(Qcow2Device device, int offset, int length) =>
        device.Write(offset, Stamp.Bytes(offset, length, 1));

    /// <summary>Asserts that the disk is the backing file's but for one range.</summary>
    private static void ShouldHold(Qcow2Device device, int offset, int length)
    {
        byte[] expected = Stamp.Bytes(0, DiskBytes, 0);
        Stamp.Bytes(offset, length, 1).CopyTo(expected, offset);
        byte[] seen = new byte[DiskBytes];
        device.Read(0, seen);
        Assert.True(expected.AsSpan().SequenceEqual(seen), "the disk holds something else");
    }
}
