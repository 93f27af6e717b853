// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Tests.Encryption;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Runs its tests while no other test of the assembly runs: what they measure is of the process.</summary>
[CollectionDefinition(nameof(Alone), DisableParallelization = true)]
public sealed class Alone;

/// <summary>Reads and writes allocate no managed memory.</summary>
[Collection(nameof(Alone))]
public sealed class DataPathTests
{
    private const int Requests = 100_000;
    private const long BytesAllowed = 64 * 1024;
    private const int RoundsMax = 10;

    [Theory]
    [InlineData(65536, false, false, 0)]
    [InlineData(65536, true, false, 0)]
    [InlineData(4096, false, false, 0)]
    [InlineData(65536, false, true, 0)]
    [InlineData(65536, false, false, 512)]
    [InlineData(65536, false, false, 1000)]
    public void A_hundred_thousand_reads_and_writes_allocate_nothing(
        int clusterSize, bool extendedL2, bool withBitmaps, int encryptedBytes)
    {
        const int DiskBytes = 16 << 20;
        MemoryDevice file = new(0);
        Qcow2Creator.Create(file, new Qcow2CreateOptions
        {
            Size = DiskBytes,
            ClusterSize = clusterSize,
            ExtendedL2 = extendedL2,
            Encryption = encryptedBytes > 0 ? EncryptedImages.Luks("cbc-essiv:sha256") : null,
        });
        using ImageSecrets secrets = EncryptedImages.Secrets(EncryptedImages.Passphrase.Span);
        using Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments { Secrets = secrets });
        if (withBitmaps)
        {
            device.AddBitmap("fine", 512, enabled: true);
            device.AddBitmap("coarse", 0, enabled: true);
        }

        byte[] buffer = new byte[encryptedBytes > 0 ? encryptedBytes : 4096];
        for (int at = 0; at <= DiskBytes - buffer.Length; at += buffer.Length)
            device.Write(at, buffer);
        device.Flush();
        Work(device, buffer, 1000, DiskBytes);

        // The figure is of the process, and the test runner's own threads add to it: what the requests themselves
        // allocate is there every time.
        long least = long.MaxValue;
        for (int round = 0; round < RoundsMax && least > BytesAllowed; round++)
        {
            long before = GC.GetTotalAllocatedBytes(precise: true);
            Work(device, buffer, Requests, DiskBytes);
            least = Math.Min(least, GC.GetTotalAllocatedBytes(precise: true) - before);
        }

        Assert.InRange(least, 0, BytesAllowed);
    }

    private static void Work(Qcow2Device device, byte[] buffer, int requests, int diskBytes)
    {
        int blocks = diskBytes / buffer.Length;
        for (int i = 0; i < requests; i++)
        {
            device.Write(i * 7919L % blocks * buffer.Length, buffer);
            device.Read(i * 104729L % blocks * buffer.Length, buffer);
            if (i % 1000 == 0)
                device.Flush();
        }
    }
}
