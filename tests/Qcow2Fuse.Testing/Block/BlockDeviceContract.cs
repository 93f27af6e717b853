// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Testing;

/// <summary>
/// What every <see cref="BlockDevice"/> promises. A test class of a device inherits it and says how one is made.
/// </summary>
public abstract class BlockDeviceContract
{
    /// <summary>Length of the device in most tests, bytes.</summary>
    protected const int Size = 1 << 20;

    private static readonly long[] EdgeOffsets = [0, 1, 511, 512, 4095, 4096, 4097, 65535, 65536, 131071, Size - 7];

    private static readonly int[] EdgeLengths = [1, 2, 511, 512, 513, 4096, 5000, 65536, 70001];

    /// <summary>Whether <see cref="BlockDevice.Resize"/> works; otherwise it must say that it does not.</summary>
    protected virtual bool CanResize => true;

    /// <summary>Whether it can be made smaller too.</summary>
    protected virtual bool CanShrink => CanResize;

    /// <summary>A writable device of <paramref name="length"/> bytes, n × 4096, that reads as zeroes.</summary>
    protected abstract BlockDevice Create(long length);

    [Fact]
    public void A_fresh_device_has_its_length_and_reads_zeroes()
    {
        using BlockDevice device = Create(Size);
        Assert.Equal(Size, device.Length);
        Assert.False(device.IsReadOnly);
        Assert.NotEmpty(device.Name);
        Assert.True(device.Limits.RequestAlignment is > 0 and <= 4096);
        DeviceModel.Of(device).ShouldMatch();
        Assert.Equal(-1, ReadAll(device).AsSpan().IndexOfAnyExcept((byte)0));
    }

    [Fact]
    public void What_was_written_reads_back_at_every_kind_of_offset_and_length()
    {
        using BlockDevice device = Create(Size);
        DeviceModel model = DeviceModel.Of(device);
        int seed = 1;
        foreach (long offset in EdgeOffsets)
        {
            foreach (int length in EdgeLengths.Where(length => offset + length <= Size))
                model.Write(offset, DeviceModel.Pattern(length, seed++));
            model.ShouldMatch();
        }
    }

    [Fact]
    public void Reads_of_every_kind_of_offset_and_length_give_the_right_bytes()
    {
        using BlockDevice device = Create(Size);
        DeviceModel model = DeviceModel.Of(device);
        model.Write(0, DeviceModel.Pattern(Size, seed: 3));
        foreach (long offset in EdgeOffsets)
        {
            foreach (int length in EdgeLengths.Where(length => offset + length <= Size))
                model.ShouldMatch(offset, length);
        }
    }

    [Fact]
    public void The_last_byte_can_be_written_and_read()
    {
        using BlockDevice device = Create(Size);
        device.Write(Size - 1, [0xA5]);
        byte[] read = new byte[1];
        device.Read(Size - 1, read);
        Assert.Equal(0xA5, read[0]);
        Assert.Equal(Size, device.Length);
    }

    [Fact]
    public void A_later_write_wins_over_an_earlier_one()
    {
        using BlockDevice device = Create(Size);
        DeviceModel model = DeviceModel.Of(device);
        model.Write(1000, DeviceModel.Pattern(9000, seed: 1));
        model.Write(3000, DeviceModel.Pattern(2000, seed: 2));
        model.Write(0, DeviceModel.Pattern(1500, seed: 3));
        model.ShouldMatch();
    }

    [Theory]
    [InlineData(0, 0, 0, 0)]
    [InlineData(0, 4096, 4096, 4096)]
    [InlineData(4096, 0, 8192, 4096)]
    [InlineData(4096, 4096, 8192, 0)]
    [InlineData(512, 0, 0, 512)]
    [InlineData(77, 10, 5000, 3)]
    [InlineData(65530, 100000, 1, 65536)]
    public void Parts_are_written_one_after_the_other(long offset, int head, int body, int tail)
    {
        using BlockDevice device = Create(Size);
        DeviceModel model = DeviceModel.Of(device);
        model.Write(0, DeviceModel.Pattern(Size, seed: 9));
        model.WriteParts(
            offset,
            DeviceModel.Pattern(head, seed: 1),
            DeviceModel.Pattern(body, seed: 2),
            DeviceModel.Pattern(tail, seed: 3));
        model.ShouldMatch();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Zeroed_ranges_read_as_zeroes_and_their_neighbours_stay(bool mayUnmap)
    {
        using BlockDevice device = Create(Size);
        DeviceModel model = DeviceModel.Of(device);
        foreach (long offset in EdgeOffsets)
        {
            foreach (int length in EdgeLengths.Where(length => offset + length <= Size))
            {
                model.Write(0, DeviceModel.Pattern(300000, seed: length));
                model.WriteZeroes(offset, length, mayUnmap);
                model.ShouldMatch(0, 300000);
            }
        }

        model.WriteZeroes(0, Size, mayUnmap);
        model.ShouldMatch();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Zeroed_ranges_can_be_written_again(bool mayUnmap)
    {
        using BlockDevice device = Create(Size);
        DeviceModel model = DeviceModel.Of(device);
        model.Write(0, DeviceModel.Pattern(Size, seed: 1));
        model.WriteZeroes(65536, 262144, mayUnmap);
        model.Write(100000, DeviceModel.Pattern(50000, seed: 2));
        device.Flush();
        model.ShouldMatch();
    }

    [Fact]
    public void Discarded_bytes_keep_their_value_or_are_zero_and_neighbours_stay()
    {
        using BlockDevice device = Create(Size);
        DeviceModel model = DeviceModel.Of(device);
        foreach ((long offset, int length) in new[] { (0L, 1), (4000L, 200), (65536L, 131072), (300001L, 99999) })
        {
            model.Write(0, DeviceModel.Pattern(Size, seed: length));
            model.Discard(offset, length);
            model.ShouldMatch();
        }

        model.Discard(0, Size);
        model.Write(65536, DeviceModel.Pattern(8192, seed: 7));
        model.ShouldMatch();
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Random_operations_leave_what_a_plain_array_holds(int seed)
    {
        using BlockDevice device = Create(Size);
        DeviceModel model = DeviceModel.Of(device);
        Random random = new(seed);
        for (int step = 0; step < 400; step++)
        {
            long offset = random.NextInt64(Size);
            int length = (int)Math.Min(Size - offset, random.Next(4) == 0 ? random.Next(150000) : random.Next(9000));
            switch (random.Next(7))
            {
                case 0:
                    model.WriteZeroes(offset, length, mayUnmap: random.Next(2) == 0);
                    break;
                case 1:
                    model.Discard(offset, length);
                    break;
                case 2:
                    int head = random.Next(length + 1);
                    int body = random.Next(length - head + 1);
                    byte[] all = DeviceModel.Pattern(length, step);
                    model.WriteParts(offset, all[..head], all[head..(head + body)], all[(head + body)..]);
                    break;
                case 3:
                    device.Flush();
                    break;
                default:
                    model.Write(offset, DeviceModel.Pattern(length, step));
                    break;
            }

            model.ShouldMatch(offset, length);
        }

        model.ShouldMatch();
        ExtentsShouldBeTrue(device);
    }

    [Fact]
    public void Requests_of_no_bytes_do_nothing()
    {
        using BlockDevice device = Create(Size);
        DeviceModel model = DeviceModel.Of(device);
        model.Write(0, DeviceModel.Pattern(Size, seed: 5));
        foreach (long offset in new long[] { 0, 1, 4096, Size })
        {
            device.Read(offset, []);
            device.Write(offset, []);
            device.WriteParts(offset, [], [], []);
            device.WriteZeroes(offset, 0, mayUnmap: true);
            device.WriteZeroes(offset, 0, mayUnmap: false);
            device.Discard(offset, 0);
        }

        Assert.Equal(Size, device.Length);
        model.ShouldMatch();
    }

    [Theory]
    [InlineData(-1, 1)]
    [InlineData(Size, 1)]
    [InlineData(Size - 1, 2)]
    [InlineData(Size + 1L, 0)]
    [InlineData(long.MaxValue, 1)]
    [InlineData(long.MinValue, 1)]
    public void Reads_outside_are_refused(long offset, int length)
    {
        using BlockDevice device = Create(Size);
        ShouldFail(BlockErrorKind.OutOfRange, () => device.Read(offset, new byte[length]));
    }

    [Theory]
    [InlineData(-1, 1)]
    [InlineData(-4096, 8192)]
    [InlineData(long.MinValue, 4096)]
    [InlineData(long.MaxValue, 4096)]
    public void Changes_at_impossible_offsets_are_refused(long offset, int length)
    {
        using BlockDevice device = Create(Size);
        byte[] data = new byte[length];
        ShouldFail(BlockErrorKind.OutOfRange, () => device.Write(offset, data));
        ShouldFail(BlockErrorKind.OutOfRange, () => device.WriteParts(offset, data, data, data));
        ShouldFail(BlockErrorKind.OutOfRange, () => device.WriteZeroes(offset, length, mayUnmap: true));
        ShouldFail(BlockErrorKind.OutOfRange, () => device.WriteZeroes(offset, length, mayUnmap: false));
        ShouldFail(BlockErrorKind.OutOfRange, () => device.Discard(offset, length));
        Assert.Equal(Size, device.Length);
    }

    [Theory]
    [InlineData(Size, 1)]
    [InlineData(Size, 4096)]
    [InlineData(Size - 1, 2)]
    [InlineData(Size - 4096, 8192)]
    [InlineData(Size + 100001L, 5001)]
    public void A_write_past_the_end_grows_the_device_or_is_refused(long offset, int length)
    {
        PastTheEnd(offset, length, (device, data) => device.Write(offset, data));
        PastTheEnd(offset, length, (device, data) => device.WriteParts(offset, data[..1], data[1..], []));
    }

    [Theory]
    [InlineData(Size, 1, true)]
    [InlineData(Size - 4096, 8192, true)]
    [InlineData(Size + 100001L, 5001, true)]
    [InlineData(Size, 1, false)]
    [InlineData(Size - 4096, 8192, false)]
    [InlineData(Size + 100001L, 5001, false)]
    public void Zeroes_past_the_end_grow_the_device_or_are_refused(long offset, int length, bool mayUnmap)
    {
        PastTheEnd(
            offset,
            length,
            (device, data) =>
            {
                device.WriteZeroes(offset, length, mayUnmap);
                data.AsSpan().Clear();
            });
    }

    [Fact]
    public void A_discard_past_the_end_is_refused()
    {
        using BlockDevice device = Create(Size);
        ShouldFail(BlockErrorKind.OutOfRange, () => device.Discard(Size, 1));
        ShouldFail(BlockErrorKind.OutOfRange, () => device.Discard(Size - 1, 2));
        Assert.Equal(Size, device.Length);
    }

    [Fact]
    public void Extents_cover_the_device_and_stay_in_the_range_asked_for()
    {
        using BlockDevice device = Create(Size);
        device.Write(131072, DeviceModel.Pattern(131072, seed: 1));
        device.Write(600000, DeviceModel.Pattern(3, seed: 2));
        device.WriteZeroes(196608, 4096, mayUnmap: true);
        device.Flush();
        ExtentsShouldBeTrue(device);
        Extent one = device.GetExtent(131073, 1);
        Assert.Equal((131073, 1), (one.Offset, one.Length));
        Assert.Contains(one.Kind, new[] { ExtentKind.Data, ExtentKind.Compressed });
    }

    [Fact]
    public void Extents_outside_the_device_are_refused()
    {
        using BlockDevice device = Create(Size);
        ShouldFail(BlockErrorKind.OutOfRange, () => device.GetExtent(Size, 1));
        ShouldFail(BlockErrorKind.OutOfRange, () => device.GetExtent(Size - 1, 2));
        ShouldFail(BlockErrorKind.OutOfRange, () => device.GetExtent(-1, 1));
    }

    [Fact]
    public void Storage_in_use_is_counted()
    {
        using BlockDevice device = Create(Size);
        device.Write(0, DeviceModel.Pattern(262144, seed: 1));
        device.Flush();
        Assert.True(device.AllocatedBytes >= 262144, $"{device.AllocatedBytes} bytes in use");
    }

    [Fact]
    public void Resize_changes_the_length_and_new_space_reads_zeroes()
    {
        using BlockDevice device = Create(Size);
        device.Write(0, DeviceModel.Pattern(Size, seed: 1));
        if (!CanResize)
        {
            ShouldFail(BlockErrorKind.NotSupported, () => device.Resize(Size / 2));
            ShouldFail(BlockErrorKind.NotSupported, () => device.Resize(2 * Size));
            Assert.Equal(Size, device.Length);
            return;
        }

        byte[] expected = new byte[2 * Size];
        if (!CanShrink)
        {
            ShouldFail(BlockErrorKind.NotSupported, () => device.Resize(Size / 2));
            DeviceModel.Pattern(Size, seed: 1).CopyTo(expected, 0);
            device.Resize(2 * Size);
            Assert.Equal(expected, ReadAll(device));
            return;
        }

        DeviceModel.Pattern(Size, seed: 1).AsSpan(0, 8192 + 512).CopyTo(expected);
        device.Resize(8192 + 512);
        Assert.Equal(8192 + 512, device.Length);
        ShouldFail(BlockErrorKind.OutOfRange, () => device.Read(8192 + 512, new byte[1]));
        device.Resize(2 * Size);
        Assert.Equal(2 * Size, device.Length);
        Assert.Equal(expected, ReadAll(device));
    }

    [Fact]
    public void Requests_allocate_no_managed_memory()
    {
        using BlockDevice device = Create(Size);
        byte[] data = DeviceModel.Pattern(8192, seed: 1);
        void Round(int i)
        {
            long offset = i % 16 * 16384;
            device.Write(offset, data.AsSpan(0, 4096));
            device.Write(offset + 5, data.AsSpan(0, 100));
            device.WriteParts(offset, data.AsSpan(0, 512), data.AsSpan(0, 4096), data.AsSpan(0, 512));
            device.Read(offset, data.AsSpan(0, 4096));
            device.Read(offset + 77, data.AsSpan(0, 1000));
            if (i % 64 == 0)
                device.Flush();
        }

        for (int i = 0; i < 200; i++)
            Round(i);
        long allocated = ManagedAllocation.Of(() =>
        {
            for (int i = 0; i < 2000; i++)
                Round(i);
        });

        // An object takes at least 24 bytes.
        Assert.True(allocated < 100_000, $"{allocated} bytes allocated by 10,000 requests");
    }

    private static void ExtentsShouldBeTrue(BlockDevice device)
    {
        byte[] content = ReadAll(device);
        for (long offset = 0; offset < device.Length;)
        {
            Extent extent = device.GetExtent(offset, device.Length - offset);
            Assert.Equal(offset, extent.Offset);
            Assert.InRange(extent.Length, 1, device.Length - offset);
            if (extent.Kind is ExtentKind.Zero or ExtentKind.Unallocated)
            {
                int end = (int)(offset + extent.Length);
                Assert.Equal(-1, content.AsSpan((int)offset..end).IndexOfAnyExcept((byte)0));
            }

            offset += extent.Length;
        }
    }

    private void PastTheEnd(long offset, int length, Action<BlockDevice, byte[]> change)
    {
        using BlockDevice device = Create(Size);
        byte[] old = DeviceModel.Pattern(Size, seed: 1);
        byte[] data = DeviceModel.Pattern(length, seed: 2);
        device.Write(0, old);
        if (!device.Limits.GrowsOnWrite)
        {
            ShouldFail(BlockErrorKind.OutOfRange, () => change(device, data));
            Assert.Equal(old, ReadAll(device));
            return;
        }

        change(device, data);
        byte[] expected = new byte[offset + length];
        old.CopyTo(expected, 0);
        data.CopyTo(expected, offset);
        Assert.Equal(offset + length, device.Length);
        Assert.Equal(expected, ReadAll(device));
    }
}
