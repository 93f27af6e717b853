// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>
/// Images with damaged metadata: whatever the bytes, the engine answers with data or with a
/// <see cref="BlockException"/>, in bounded time.
/// </summary>
public sealed class HostileImageTests
{
    private const int DiskBytes = 1 << 20;

    [Theory]
    [InlineData(4096, false, 1UL)]
    [InlineData(512, false, 2UL)]
    [InlineData(16384, true, 3UL)]
    [Trait(Speed.Name, Speed.Slow)]
    public void Random_damage_never_escapes_as_anything_but_a_block_failure(
        int clusterSize, bool extendedL2, ulong seed)
    {
        const int Images = 2500;
        byte[] sound = MakeSound(clusterSize, extendedL2);
        SeededRandom random = new(seed);
        for (int i = 0; i < Images; i++)
        {
            byte[] damaged = [.. sound];
            for (int changes = 1 + random.Below(4); changes > 0; changes--)
                Damage(damaged, random, clusterSize);
            ProcessorWatch watch = ProcessorWatch.StartNew();
            Use(damaged, random);
            watch.ShouldBeBelow(TimeSpan.FromSeconds(5), $"image {i}");
        }
    }

    private static byte[] MakeSound(int clusterSize, bool extendedL2)
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions
        {
            Size = DiskBytes,
            ClusterSize = clusterSize,
            ExtendedL2 = extendedL2,
        });
        image.Write(0, 200_000, 1).Write(500_000, 100_000, 2);
        image.Device.WriteZeroes(100_000, 50_000, mayUnmap: false);
        image.Close();
        byte[] bytes = new byte[image.Disk.Length];
        image.Disk.Read(0, bytes);
        return bytes;
    }

    private static void Damage(byte[] image, SeededRandom random, int clusterSize)
    {
        // Mostly the header and the tables, which all lie in the first clusters.
        int offset = random.Below(3) switch
        {
            0 => random.Below(112),
            1 => random.Below(Math.Min(image.Length, 8 * clusterSize)),
            _ => random.Below(image.Length),
        };
        switch (random.Below(4))
        {
            case 0:
                image[offset] ^= (byte)(1 << random.Below(8));
                break;
            case 1:
                image[offset] = (byte)random.Below(256);
                break;
            case 2:
                image.AsSpan(offset, Math.Min(8, image.Length - offset)).Fill(0xff);
                break;
            default:
                image.AsSpan(offset, Math.Min(8, image.Length - offset)).Clear();
                break;
        }
    }

    private static void Use(byte[] bytes, SeededRandom random)
    {
        bool readOnly = random.Below(3) == 0;
        MemoryDevice file = new(0, 64 << 20, "damaged");
        file.Write(0, bytes);
        BlockDevice device;
        try
        {
            device = Qcow2Device.Open(file, new FormatOpenArguments { ReadOnly = readOnly });
        }
        catch (BlockException failure)
        {
            Assert.DoesNotContain('\n', failure.Message);
            file.Dispose();
            return;
        }

        byte[] buffer = new byte[4096];
        for (int i = 0; i < 40; i++)
        {
            long offset = random.Below(Math.Max(1, Math.Min(device.Length, 4L * DiskBytes)));
            int length = (int)Math.Min(buffer.Length, device.Length - offset);
            Ignoring(() => device.Read(offset, buffer.AsSpan(0, length)));
            Ignoring(() => device.GetExtent(offset, Math.Max(length, 1)));
            if (readOnly)
                continue;
            Ignoring(() => device.Write(offset, buffer.AsSpan(0, length)));
            if (i % 5 == 0)
                Ignoring(() => device.WriteZeroes(offset, length, mayUnmap: true));
            if (i % 10 == 0)
                Ignoring(device.Flush);
        }

        Ignoring(device.Dispose);
    }

    /// <summary>A failure of the image is an answer; anything else escapes and fails the test.</summary>
    private static void Ignoring(Action action)
    {
        try
        {
            action();
        }
        catch (BlockException failure)
        {
            Assert.DoesNotContain('\n', failure.Message);
        }
    }
}
