// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Tests.Encryption;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Crash;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>The block device contract on images of one kind.</summary>
public abstract class Qcow2Contract : DurableDeviceContract
{
    private readonly Dictionary<BlockDevice, KeptDevice> _files = new(ReferenceEqualityComparer.Instance);

    protected abstract Qcow2CreateOptions Options { get; }

    /// <summary>A backing file of zeroes, or null.</summary>
    protected virtual int? BackingLength => null;

    protected override BlockDevice Create(long length)
    {
        KeptDevice file = new(new MemoryDevice(0));
        Qcow2Creator.Create(file, Options with { Size = length, BackingFile = BackingLength is null ? null : "b" });
        return Open(file, readOnly: false);
    }

    protected override BlockDevice Reopen(BlockDevice device, bool readOnly)
    {
        KeptDevice file = _files[device];
        device.Dispose();
        return Open(file, readOnly);
    }

    private Qcow2Device Open(KeptDevice file, bool readOnly)
    {
        BackingDevice? backing = BackingLength is { } length ? new BackingDevice(new byte[length]) : null;
        Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments
        {
            ReadOnly = readOnly,
            Backing = backing,
            Secrets = Options.Encryption?.Secrets,
        });
        _files[device] = file;
        return device;
    }

    /// <summary>Storage that outlives the image opened on it, so that the next one can be opened.</summary>
    private sealed class KeptDevice(MemoryDevice memory) : BlockDevice
    {
        public override string Name => memory.Name;

        public override long Length => memory.Length;

        public override bool IsReadOnly => false;

        public override BlockLimits Limits => memory.Limits;

        public override long AllocatedBytes => memory.AllocatedBytes;

        public override void Read(long offset, Span<byte> destination) => memory.Read(offset, destination);

        public override void Write(long offset, ReadOnlySpan<byte> source) => memory.Write(offset, source);

        public override void WriteZeroes(long offset, long length, bool mayUnmap) =>
            memory.WriteZeroes(offset, length, mayUnmap);

        public override void Discard(long offset, long length) => memory.Discard(offset, length);

        public override void Flush() => memory.Flush();

        public override Extent GetExtent(long offset, long length) => memory.GetExtent(offset, length);
    }
}

public sealed class StandardContractTests : Qcow2Contract
{
    protected override Qcow2CreateOptions Options => new() { Size = 0 };
}

public sealed class SmallClusterContractTests : Qcow2Contract
{
    protected override Qcow2CreateOptions Options => new() { Size = 0, ClusterSize = 512 };
}

public sealed class Version2ContractTests : Qcow2Contract
{
    protected override Qcow2CreateOptions Options => new() { Size = 0, Version = 2, ClusterSize = 4096 };
}

public sealed class ExtendedContractTests : Qcow2Contract
{
    protected override Qcow2CreateOptions Options => new() { Size = 0, ClusterSize = 16384, ExtendedL2 = true };
}

public sealed class OverlayContractTests : Qcow2Contract
{
    protected override Qcow2CreateOptions Options => new() { Size = 0, ClusterSize = 16384, ExtendedL2 = true };

    protected override int? BackingLength => 300_001;
}

[Trait(Speed.Name, Speed.Slow)]
public sealed class LuksContractTests : Qcow2Contract
{
    protected override Qcow2CreateOptions Options =>
        new() { Size = 0, ClusterSize = 4096, Encryption = EncryptedImages.Luks("xts-plain64") };
}

[Trait(Speed.Name, Speed.Slow)]
public sealed class LuksOverlayContractTests : Qcow2Contract
{
    protected override Qcow2CreateOptions Options => new()
    {
        Size = 0,
        ClusterSize = 16384,
        ExtendedL2 = true,
        Encryption = EncryptedImages.Luks("cbc-essiv:sha256"),
    };

    protected override int? BackingLength => 300_001;
}

public sealed class AesContractTests : Qcow2Contract
{
    protected override Qcow2CreateOptions Options =>
        new() { Size = 0, ClusterSize = 512, Encryption = EncryptedImages.Aes };
}
