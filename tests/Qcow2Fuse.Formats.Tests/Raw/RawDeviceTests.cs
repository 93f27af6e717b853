// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Formats.Raw;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Testing;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Formats.Tests;

public sealed class RawDeviceTests : ConcurrencyContract
{
    protected override BlockDevice Create(long length) =>
        new RawFormat().Open(new MemoryDevice(length), new FormatOpenArguments());

    [Fact]
    public void The_length_is_that_of_the_file_to_the_byte()
    {
        using BlockDevice device = Create(12345);
        Assert.Equal(12345, device.Length);
        ShouldFail(BlockErrorKind.OutOfRange, () => device.Write(12345, [1]));
    }

    [Fact]
    public void Requests_inside_are_runs_of_the_file()
    {
        using TempDirectory directory = new();
        string path = directory.File("raw");
        File.WriteAllBytes(path, DeviceModel.Pattern(Size, seed: 1));
        using (PlainAccess device = new(new RawFormat().Open(FileDevice.Open(path), new FormatOpenArguments())))
        {
            byte[] seen = new byte[4096];
            device.Read(Size - 4096, seen);
            Assert.Equal(DeviceModel.Pattern(Size, seed: 1)[^4096..], seen);
            device.Write(1000, DeviceModel.Pattern(5000, seed: 2));
            Assert.Equal(2, device.Transfers);
            Assert.False(device.Child.TryBeginPlain(Size - 4096, 4097, isWrite: true, out _));
            Assert.False(device.Child.TryBeginPlain(-1, 4096, isWrite: false, out _));
        }

        Assert.Equal(DeviceModel.Pattern(5000, seed: 2), File.ReadAllBytes(path)[1000..6000]);
        using BlockDevice readOnly =
            new RawFormat().Open(FileDevice.Open(path), new FormatOpenArguments { ReadOnly = true });
        Assert.False(readOnly.TryBeginPlain(0, 4096, isWrite: true, out _));
        Assert.True(readOnly.TryBeginPlain(0, 4096, isWrite: false, out _));
    }

    [Fact]
    public void Opened_read_only_it_refuses_changes_although_the_file_would_take_them()
    {
        MemoryDevice file = new(4096);
        using BlockDevice device = new RawFormat().Open(file, new FormatOpenArguments { ReadOnly = true });
        Assert.True(device.IsReadOnly);
        ShouldFail(BlockErrorKind.ReadOnly, () => device.Write(0, [1]));
        ShouldFail(BlockErrorKind.ReadOnly, () => device.WriteZeroes(0, 1, mayUnmap: true));
        ShouldFail(BlockErrorKind.ReadOnly, () => device.Discard(0, 1));
        Assert.Equal(0, file.AllocatedBytes);
    }

    [Fact]
    public void With_discard_ignored_the_file_keeps_its_storage()
    {
        MemoryDevice file = new(Size);
        using BlockDevice device =
            new RawFormat().Open(file, new FormatOpenArguments { Discard = DiscardMode.Ignore });
        device.Write(0, DeviceModel.Pattern(Size, seed: 1));
        long full = file.AllocatedBytes;
        device.Discard(0, Size);
        device.WriteZeroes(0, Size, mayUnmap: true);
        Assert.Equal(full, file.AllocatedBytes);
    }

    [Fact]
    public void Nothing_is_taken_for_a_raw_image_by_its_looks()
    {
        Assert.False(new RawFormat().Probe(new byte[512]));
        Assert.False(new RawFormat().Probe("QFI\u00fb"u8));
    }

    [Fact]
    public void A_backing_file_is_refused()
    {
        using MemoryDevice file = new(4096);
        using MemoryDevice backing = new(4096);
        ShouldFail(
            BlockErrorKind.NotSupported,
            () => new RawFormat().Open(file, new FormatOpenArguments { Backing = backing }));
    }
}
