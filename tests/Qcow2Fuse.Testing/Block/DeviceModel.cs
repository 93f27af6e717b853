// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Xunit;

namespace Qcow2Fuse.Testing;

/// <summary>A device beside a plain array that gets the same changes.</summary>
public sealed class DeviceModel
{
    private readonly BlockDevice _device;
    private readonly byte[] _expected;

    private DeviceModel(BlockDevice device, byte[] expected)
    {
        _device = device;
        _expected = expected;
    }

    /// <summary>A model of <paramref name="device"/> that begins with the content it has now.</summary>
    public static DeviceModel Of(BlockDevice device)
    {
        byte[] content = new byte[device.Length];
        device.Read(0, content);
        return new DeviceModel(device, content);
    }

    /// <summary>Bytes that are never zero and differ from place to place and from seed to seed.</summary>
    public static byte[] Pattern(int length, int seed)
    {
        byte[] pattern = new byte[length];
        new Random(seed).NextBytes(pattern);
        foreach (ref byte value in pattern.AsSpan())
            value |= 1;
        return pattern;
    }

    /// <summary>Writes to both.</summary>
    public void Write(long offset, byte[] data)
    {
        _device.Write(offset, data);
        data.CopyTo(_expected, offset);
    }

    /// <summary>Writes three parts to both.</summary>
    public void WriteParts(long offset, byte[] head, byte[] body, byte[] tail)
    {
        _device.WriteParts(offset, head, body, tail);
        byte[] all = [.. head, .. body, .. tail];
        all.CopyTo(_expected, offset);
    }

    /// <summary>Zeroes both.</summary>
    public void WriteZeroes(long offset, int length, bool mayUnmap)
    {
        _device.WriteZeroes(offset, length, mayUnmap);
        _expected.AsSpan((int)offset, length).Clear();
    }

    /// <summary>Discards, asserts that each byte is the old one or zero, and goes on with what there is.</summary>
    public void Discard(long offset, int length)
    {
        _device.Discard(offset, length);
        byte[] actual = new byte[length];
        _device.Read(offset, actual);
        for (int i = 0; i < length; i++)
        {
            if (actual[i] != 0)
                Assert.Equal(_expected[offset + i], actual[i]);
        }

        actual.CopyTo(_expected, offset);
    }

    /// <summary>Asserts that the device holds what the array holds.</summary>
    public void ShouldMatch() => ShouldMatch(0, _expected.Length);

    /// <summary>Asserts that a range of the device, read as one request, holds what the array holds.</summary>
    public void ShouldMatch(long offset, int length)
    {
        byte[] actual = new byte[length];
        _device.Read(offset, actual);
        ReadOnlySpan<byte> expected = _expected.AsSpan((int)offset, length);
        int same = expected.CommonPrefixLength(actual);
        if (same < length)
        {
            Assert.Fail(
                $"byte {offset + same} is {actual[same]:x2} instead of {expected[same]:x2} "
                    + $"(read of {length} bytes at {offset})");
        }
    }
}
