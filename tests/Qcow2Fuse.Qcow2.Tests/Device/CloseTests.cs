// SPDX-License-Identifier: MIT
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

/// <summary>Closing, also twice.</summary>
public sealed class CloseTests
{
    [Theory]
    [InlineData(DiscardMode.Unmap, CompressedWrites.Off)]
    [InlineData(DiscardMode.NoUnref, CompressedWrites.Off)]
    [InlineData(DiscardMode.Unmap, CompressedWrites.AsImage)]
    public void A_second_close_does_nothing(DiscardMode discard, CompressedWrites compress)
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 4 << 20 },
            arguments: new FormatOpenArguments { Discard = discard, Compress = compress });
        image.Write(0, 200_000, 1).Device.Discard(65536, 65536);
        BlockDevice device = image.Device;
        device.Dispose();
        image.Order.Clear();
        device.Dispose();
        Assert.Empty(image.Order.Requests);
        image.Reopen().ShouldRead(0, 65536, 1).ShouldReadZeroes(65536, 65536).ShouldPassCheck();
    }

    [Fact]
    public void A_second_close_of_an_image_in_a_file_does_nothing()
    {
        using TempDirectory directory = new();
        string path = directory.File("image.qcow2");
        using (FileDevice file = FileDevice.Create(path))
            Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = 4 << 20 });
        Qcow2Device device = Qcow2Device.Open(FileDevice.Open(path), new FormatOpenArguments());
        device.Write(0, Stamp.Bytes(0, 4096, 3));
        device.Dispose();
        byte[] closed = File.ReadAllBytes(path);
        device.Dispose();
        Assert.Equal(closed, File.ReadAllBytes(path));
    }

    [Fact]
    public void A_close_that_fails_says_so_once()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 4 << 20 });
        image.Write(0, 1 << 20, 1);
        image.Faults.Fail(new FaultRule { Op = BlockOp.Flush, Times = int.MaxValue });
        Assert.Throws<BlockException>(image.Device.Dispose);
        image.Device.Dispose();
        Assert.Empty(image.Plain.Check().Errors);
    }
}
