// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>The block device contract where the caller does all transfers that the image lets him do.</summary>
public abstract class PlainContract : ConcurrencyContract, IDisposable
{
    private readonly TempDirectory _directory = new();

    protected abstract Qcow2CreateOptions Options { get; }

    /// <summary>Past the page cache of the host.</summary>
    protected virtual bool IsDirect => false;

    public void Dispose()
    {
        _directory.Dispose();
        GC.SuppressFinalize(this);
    }

    [Fact]
    public void Most_requests_are_transfers()
    {
        using PlainAccess device = (PlainAccess)Create(Size);
        byte[] data = DeviceModel.Pattern(Size, seed: 1);
        device.Write(0, data);
        for (int at = 0; at < Size; at += 4096)
        {
            device.Write(at, data.AsSpan(at, 4096));
            device.Read(at, data.AsSpan(at, 4096));
        }

        Assert.Equal(2 * Size / 4096, device.Transfers);
        Assert.Equal(DeviceModel.Pattern(Size, seed: 1), data);
    }

    protected override BlockDevice Create(long length)
    {
        string path = _directory.File(Guid.NewGuid().ToString("N"));
        using (FileDevice file = FileDevice.Create(path))
            Qcow2Creator.Create(file, Options with { Size = length });
        return new PlainAccess(Qcow2Device.Open(FileDevice.Open(path, direct: IsDirect), new FormatOpenArguments()));
    }
}

public sealed class PlainStandardContractTests : PlainContract
{
    protected override Qcow2CreateOptions Options => new() { Size = 0 };
}

[Trait(Speed.Name, Speed.Slow)]
public sealed class PlainSubclusterContractTests : PlainContract
{
    protected override Qcow2CreateOptions Options => new() { Size = 0, ExtendedL2 = true };
}

[Trait(Speed.Name, Speed.Slow)]
public sealed class PlainDirectContractTests : PlainContract
{
    protected override Qcow2CreateOptions Options => new() { Size = 0, ClusterSize = 4096 };

    protected override bool IsDirect => true;
}
