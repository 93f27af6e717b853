// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Images on which runs are begun and ended, and what is asked of them.</summary>
public abstract class PlainRunFixture : IDisposable
{
    protected const int Cluster = 65536;
    protected const int Disk = 4 << 20;
    protected static readonly TimeSpan Patience = Eventually.Patience;
    protected static readonly Qcow2CreateOptions Standard = new() { Size = Disk };

    protected TempDirectory Files { get; } = new();

    protected string ImagePath => Files.File("image.qcow2");

    public void Dispose()
    {
        Files.Dispose();
        GC.SuppressFinalize(this);
    }

    /// <summary>Whether the range is a run in a file.</summary>
    protected static bool Begins(BlockDevice device, long offset, int length, bool isWrite)
    {
        if (!device.TryBeginPlain(offset, length, isWrite, out PlainRun run))
            return false;
        device.EndPlain(run);
        return run.Kind != PlainRunKind.Zeroes;
    }

    protected static void ShouldRefuse(BlockDevice device, long offset, int length)
    {
        Assert.False(Begins(device, offset, length, isWrite: false), $"read of {length} at {offset}");
        Assert.False(Begins(device, offset, length, isWrite: true), $"write of {length} at {offset}");
    }

    protected static void ShouldRead(BlockDevice device, long offset, byte[] expected)
    {
        byte[] seen = new byte[expected.Length];
        Assert.True(device.TryBeginPlain(offset, seen.Length, isWrite: false, out PlainRun run));
        PlainAccess.Move(run, source: [], seen);
        device.EndPlain(run);
        Assert.Equal(expected, seen);
    }

    /// <summary>Writes and reads the range as transfers, and compares with the usual way.</summary>
    protected static void ShouldReach(BlockDevice device, long offset, int length)
    {
        byte[] data = Stamp.Bytes(offset, length, 9);
        Assert.True(device.TryBeginPlain(offset, length, isWrite: true, out PlainRun run));
        PlainAccess.Move(run, data, destination: []);
        device.EndPlain(run);
        byte[] seen = new byte[length];
        device.Read(offset, seen);
        Assert.Equal(data, seen);
        ShouldRead(device, offset, data);
    }

    protected Qcow2Device Create(Qcow2CreateOptions options)
    {
        using (FileDevice file = FileDevice.Create(ImagePath))
            Qcow2Creator.Create(file, options);
        return Open();
    }

    protected void Create(Qcow2CreateOptions options, Action<Qcow2Device> use)
    {
        using Qcow2Device device = Create(options);
        use(device);
    }

    protected Qcow2Device Open(bool readOnly = false) => Qcow2Device.Open(
        FileDevice.Open(ImagePath, readOnly), new FormatOpenArguments { ReadOnly = readOnly });
}
