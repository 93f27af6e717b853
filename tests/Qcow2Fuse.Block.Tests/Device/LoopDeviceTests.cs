// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Testing;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Block.Tests;

/// <summary>A block device of the host instead of a file. Needs root and free loop devices.</summary>
public sealed class LoopDeviceTests : IDisposable
{
    private const int Size = 1 << 20;

    private readonly ScratchDirectory _scratch = new();

    public void Dispose() => _scratch.Dispose();

    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_block_device_is_read_written_and_zeroed_at_any_offset_and_keeps_its_size(bool direct)
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "loop devices need root");
        (int exitCode, string loop) = Run("losetup", "--find", "--show", _scratch.NewFile(Size));
        Skip.If(exitCode != 0, "there is no loop device");
        try
        {
            using FileDevice device = FileDevice.Open(loop, readOnly: false, direct);
            Assert.Equal(Size, device.Length);
            Assert.False(device.Limits.GrowsOnWrite);
            DeviceModel model = DeviceModel.Of(device);
            model.Write(0, DeviceModel.Pattern(Size, seed: 1));
            model.WriteZeroes(1000, 5000, mayUnmap: true);
            model.WriteZeroes(65536, 65536, mayUnmap: true);
            model.WriteZeroes(200001, 99999, mayUnmap: false);
            model.Discard(524288, 65536);
            model.Discard(600001, 777);
            model.WriteParts(700000, [1, 2, 3], DeviceModel.Pattern(4096, seed: 2), [4]);
            device.Flush();
            model.ShouldMatch();
            ShouldFail(BlockErrorKind.NoSpace, () => device.Write(Size - 1, [1, 2]));
            ShouldFail(BlockErrorKind.NoSpace, () => device.WriteZeroes(Size, 1, mayUnmap: true));
            ShouldFail(BlockErrorKind.NotSupported, () => device.Resize(2 * Size));
            Assert.Equal(new Extent(5, 10, ExtentKind.Data, HostOffset: 5, Depth: 0), device.GetExtent(5, 10));
        }
        finally
        {
            Assert.Equal(0, Run("losetup", "--detach", loop).ExitCode);
        }
    }

    private static (int ExitCode, string Output) Run(string program, params string[] arguments)
    {
        ProcessStartInfo start = new(program, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using Process process = Process.Start(start)!;
        string output = process.StandardOutput.ReadToEnd().Trim();
        process.WaitForExit();
        return (process.ExitCode, output);
    }
}
