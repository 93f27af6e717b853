// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>The host has no more room: that is said, and what was freed is used.</summary>
public sealed class FullHostTests
{
    private const int Size = 64 << 20;
    private const int Cluster = 65536;

    /// <summary>An image on a block device, which does not grow.</summary>
    [Fact]
    public void A_block_device_that_is_full_is_no_space_and_takes_what_fits_where_something_was_freed()
    {
        using MemoryDevice memory = new();
        Qcow2Creator.Create(memory, new Qcow2CreateOptions { Size = Size });
        using (Qcow2Device device = Qcow2Device.Open(new FixedDevice(memory, 4 << 20), new FormatOpenArguments()))
        {
            int full = FillUp(device);
            device.Discard(0, 1 << 20);
            device.Write(full, Stamp.Bytes(full, Cluster, 2));
            device.Flush();
            ShouldHold(device, 0, new byte[1 << 20]);
            ShouldHold(device, 1 << 20, Stamp.Bytes(1 << 20, full - (1 << 20), 1));
            ShouldHold(device, full, Stamp.Bytes(full, Cluster, 2));
        }

        byte[] bytes = new byte[4 << 20];
        memory.Read(0, bytes.AsSpan(0, (int)Math.Min(bytes.Length, memory.Length)));
        PlainCheck check = new PlainReader(new ArrayImage(bytes)).Check();
        Assert.Empty(check.Errors);
        Assert.Equal(0, check.Leaks);
    }

    [Fact]
    public void Free_clusters_between_used_ones_are_found_when_nothing_else_is_left()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = Size });
        foreach (BlockOp op in (BlockOp[])[BlockOp.Write, BlockOp.WriteZeroes])
        {
            image.Faults.Fail(new FaultRule
            {
                Op = op,
                Offset = 8 << 20,
                Times = int.MaxValue,
                Error = BlockErrorKind.NoSpace,
            });
        }

        int full = FillUp(image.Device);
        for (int at = 0; at < full; at += 2 * Cluster)
            image.Device.Discard(at, Cluster);
        image.Device.Flush();

        // No two free clusters lie side by side.
        image.Write(full, 4 * Cluster, 2).Device.Flush();
        image.Faults.Heal();
        image.ShouldRead(full, 4 * Cluster, 2);
        for (int at = 0; at + (2 * Cluster) <= full; at += 2 * Cluster)
            image.ShouldReadZeroes(at, Cluster).ShouldRead(at + Cluster, Cluster, 1);
        image.ShouldPassCheck();
    }

    /// <summary>Writes whole clusters until there is no space, and returns the offset that found none.</summary>
    private static int FillUp(BlockDevice device)
    {
        int at = 0;
        BlockException full = Assert.Throws<BlockException>(() =>
        {
            for (; at < Size; at += Cluster)
                device.Write(at, Stamp.Bytes(at, Cluster, 1));
        });
        Assert.Equal(BlockErrorKind.NoSpace, full.Kind);
        Assert.InRange(at, 2 << 20, Size - (4 * Cluster));
        return at;
    }

    private static void ShouldHold(Qcow2Device device, int offset, byte[] expected)
    {
        byte[] seen = new byte[expected.Length];
        device.Read(offset, seen);
        Assert.True(expected.AsSpan().SequenceEqual(seen), $"other bytes at {offset}");
    }

    /// <summary>As a block device: what nobody wrote is zeroes, and writes past the end have no space.</summary>
    private sealed class FixedDevice(BlockDevice child, long length) : PassThroughDevice(child)
    {
        public override long Length => length;

        public override BlockLimits Limits => Child.Limits with { GrowsOnWrite = false };

        public override void Read(long offset, Span<byte> destination)
        {
            CheckRange(offset, destination.Length);
            Child.ReadPadded(offset, destination);
        }

        public override void Write(long offset, ReadOnlySpan<byte> source)
        {
            CheckRoom(offset, source.Length);
            Child.Write(offset, source);
        }

        public override void WriteZeroes(long offset, long length, bool mayUnmap)
        {
            CheckRoom(offset, length);
            Child.WriteZeroes(offset, length, mayUnmap);
        }

        private void CheckRoom(long offset, long bytes)
        {
            if (offset + bytes > Length)
                throw new BlockException(BlockErrorKind.NoSpace, "no space left on the device");
        }
    }
}
