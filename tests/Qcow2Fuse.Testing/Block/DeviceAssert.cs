// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Xunit;

namespace Qcow2Fuse.Testing;

/// <summary>What tests of devices say often.</summary>
public static class DeviceAssert
{
    /// <summary>The whole content of a small device.</summary>
    public static byte[] ReadAll(BlockDevice device)
    {
        byte[] all = new byte[device.Length];
        device.Read(0, all);
        return all;
    }

    /// <summary>Asserts that an action fails in the way expected, with a message of one line.</summary>
    public static BlockException ShouldFail(BlockErrorKind kind, Action action)
    {
        BlockException failure = Assert.Throws<BlockException>(action);
        Assert.True(failure.Kind == kind, $"{failure.Kind} instead of {kind}: {failure.Message}");
        Assert.DoesNotContain('\n', failure.Message);
        return failure;
    }
}
