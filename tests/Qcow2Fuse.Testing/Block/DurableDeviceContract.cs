// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Testing;

/// <summary>The whole contract, for devices whose storage can be closed and opened again.</summary>
public abstract class DurableDeviceContract : ConcurrencyContract
{
    /// <summary>
    /// Closes <paramref name="device"/>, made by <see cref="BlockDeviceContract.Create"/>, and opens its storage again.
    /// </summary>
    protected abstract BlockDevice Reopen(BlockDevice device, bool readOnly);

    [Fact]
    public void Content_and_length_are_the_same_after_closing_and_opening()
    {
        BlockDevice device = Create(Size);
        byte[] data = DeviceModel.Pattern(100001, seed: 1);
        device.Write(70001, data);
        device.WriteZeroes(80000, 5000, mayUnmap: true);
        data.AsSpan(80000 - 70001, 5000).Clear();
        byte[] expected = new byte[Size];
        data.CopyTo(expected, 70001);
        device.Flush();
        using BlockDevice again = Reopen(device, readOnly: false);
        Assert.Equal(Size, again.Length);
        Assert.Equal(expected, ReadAll(again));
    }

    [Fact]
    public void What_was_written_without_a_flush_is_there_after_a_clean_close()
    {
        BlockDevice device = Create(Size);
        device.Write(1, DeviceModel.Pattern(Size - 2, seed: 1));
        using BlockDevice again = Reopen(device, readOnly: true);
        Assert.Equal((byte[])[0, .. DeviceModel.Pattern(Size - 2, seed: 1), 0], ReadAll(again));
    }

    [Fact]
    public void A_read_only_device_reads_and_refuses_every_change()
    {
        BlockDevice device = Create(Size);
        device.Write(0, DeviceModel.Pattern(Size, seed: 1));
        using BlockDevice again = Reopen(device, readOnly: true);
        Assert.True(again.IsReadOnly);
        ShouldFail(BlockErrorKind.ReadOnly, () => again.Write(0, [1]));
        ShouldFail(BlockErrorKind.ReadOnly, () => again.Write(Size, [1]));
        ShouldFail(BlockErrorKind.ReadOnly, () => again.WriteParts(0, [1], [2], [3]));
        ShouldFail(BlockErrorKind.ReadOnly, () => again.WriteZeroes(0, 1, mayUnmap: true));
        ShouldFail(BlockErrorKind.ReadOnly, () => again.WriteZeroes(0, 1, mayUnmap: false));
        ShouldFail(BlockErrorKind.ReadOnly, () => again.Discard(0, 1));
        BlockException resize = Assert.Throws<BlockException>(() => again.Resize(4096));
        Assert.Contains(resize.Kind, new[] { BlockErrorKind.ReadOnly, BlockErrorKind.NotSupported });
        again.Flush();
        Assert.Equal(DeviceModel.Pattern(Size, seed: 1), ReadAll(again));
    }
}
