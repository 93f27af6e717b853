// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>A discard is a hint to the host: where the host refuses it nothing is lost and nothing fails.</summary>
public sealed class RefusedDiscardTests
{
    [Theory]
    [InlineData(DiscardMode.Unmap, BlockErrorKind.Io)]
    [InlineData(DiscardMode.Unmap, BlockErrorKind.NotSupported)]
    [InlineData(DiscardMode.NoUnref, BlockErrorKind.Io)]
    public void A_refused_discard_fails_nothing_and_is_told_once(DiscardMode mode, BlockErrorKind error)
    {
        List<ImageMessage> told = [];
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 4 << 20 },
            arguments: new FormatOpenArguments { Discard = mode, Report = told.Add });
        image.Write(0, 1 << 20, 7).Device.Flush();
        image.Faults.Fail(new FaultRule { Op = BlockOp.Discard, Times = int.MaxValue, Error = error });
        for (int i = 0; i < 3; i++)
        {
            image.Device.Discard(i << 18, 1 << 18);
            image.Device.Flush();
            image.Write((2 << 20) + (i << 16), 4096, 9).Device.Flush();
        }

        Assert.True(image.Faults.FailureCount > 1, $"{image.Faults.FailureCount} discards were refused");
        Assert.Contains("not given back to the host", Assert.Single(told).Text, StringComparison.Ordinal);
        image.ShouldReadZeroes(0, 3 << 18).ShouldRead(3 << 18, 1 << 18, 7).ShouldPassCheck();

        // The clusters are free, and are used again.
        long length = image.Disk.Length;
        for (int i = 0; i < 8; i++)
            image.Write(i << 16, 1 << 16, 8);
        image.Device.Flush();
        Assert.Equal(length, image.Disk.Length);
        image.ShouldRead(0, 8 << 16, 8);
        image.Close().ShouldPassCheck();
        Assert.Single(told);
    }
}
