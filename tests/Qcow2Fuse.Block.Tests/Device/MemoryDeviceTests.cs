// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Testing;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Block.Tests;

public sealed class MemoryDeviceTests : DurableDeviceContract
{
    protected override BlockDevice Create(long length) => new MemoryDevice(length);

    protected override BlockDevice Reopen(BlockDevice device, bool readOnly)
    {
        ((MemoryDevice)device).ReadOnly = readOnly;
        return device;
    }

    [Fact]
    public void Growing_past_the_limit_is_no_space_and_changes_nothing()
    {
        using MemoryDevice device = new(4096, lengthMax: 10000);
        device.Write(9999, [1]);
        ShouldFail(BlockErrorKind.NoSpace, () => device.Write(9999, [1, 2]));
        ShouldFail(BlockErrorKind.NoSpace, () => device.WriteZeroes(10000, 1, mayUnmap: true));
        ShouldFail(BlockErrorKind.NoSpace, () => device.Resize(10001));
        Assert.Equal(10000, device.Length);
    }

    [Fact]
    public void A_device_of_any_size_takes_memory_only_for_what_was_written()
    {
        using MemoryDevice device = new(long.MaxValue);
        device.Write(long.MaxValue - 10, [1, 2, 3]);
        device.Write(1L << 60, [4]);
        Assert.Equal(2 * MemoryDevice.ChunkSize, device.AllocatedBytes);
        Extent hole = device.GetExtent(0, long.MaxValue);
        Assert.Equal((1L << 60, ExtentKind.Zero), (hole.Length, hole.Kind));
        device.Discard(0, 1L << 61);
        Assert.Equal(MemoryDevice.ChunkSize, device.AllocatedBytes);
        device.Resize(1 << 20);
        Assert.Equal(0, device.AllocatedBytes);
    }
}
