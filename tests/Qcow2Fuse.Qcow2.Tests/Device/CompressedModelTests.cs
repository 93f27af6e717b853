// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Compressed writes in random order beside a plain array, and from many threads.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class CompressedModelTests
{
    [Theory]
    [InlineData(3, 4096, false, CompressionType.Deflate, false)]
    [InlineData(3, 65536, false, CompressionType.Zstd, true)]
    [InlineData(3, 16384, true, CompressionType.Deflate, true)]
    [InlineData(2, 512, false, CompressionType.Deflate, true)]
    [InlineData(2, 65536, false, CompressionType.Deflate, false)]
    public void Random_requests_do_what_an_array_does(
        int version, int clusterSize, bool extendedL2, CompressionType compression, bool backed)
    {
        int size = (40 * clusterSize) + 512;
        byte[]? backing = backed ? Stamp.Bytes(0, size / 2, 9) : null;
        Qcow2CreateOptions options = new()
        {
            Size = size,
            Version = version,
            ClusterSize = clusterSize,
            ExtendedL2 = extendedL2,
            Compression = compression,
        };
        using TestImage image = TestImage.Create(
            options, backing, new FormatOpenArguments { Compress = CompressedWrites.AsImage });
        byte[] expected = new byte[size];
        backing?.CopyTo(expected, 0);
        SeededRandom random = new((ulong)clusterSize);
        for (int step = 1; step <= 600; step++)
        {
            long offset = random.Below((long)size);
            int most = random.Pick(100, 4096, clusterSize, 3 * clusterSize);
            int length = (int)Math.Min(1 + random.Below(most), size - offset);
            switch (random.Below(20))
            {
                case 0:
                    image.Device.Flush();
                    break;
                case 1:
                    image.Reopen();
                    break;
                case 2 or 3:
                    image.Device.WriteZeroes(offset, length, random.Chance(50));
                    expected.AsSpan((int)offset, length).Clear();
                    break;
                case 4 or 5 or 6:
                    image.ShouldRead(offset, expected.AsSpan((int)offset, length));
                    break;
                default:
                    ulong tag = (uint)step | (random.Chance(70) ? Stamp.Compressible : 0);
                    image.Write(offset, length, tag);
                    Stamp.Fill(expected.AsSpan((int)offset, length), offset, tag);
                    break;
            }

            if (step % 200 == 0)
                Flushed(image).ShouldRead(0, expected).ShouldPassCheck();
        }

        image.Close();
        Assert.Equal(expected, image.Plain.ReadAll());
        image.Reopen().ShouldRead(0, expected).ShouldPassCheck();
    }

    [Theory]
    [InlineData(1000)]
    [InlineData(4096)]
    [InlineData(100_000)]
    public void Many_threads_write_and_flush_at_once(int blockSize)
    {
        const int Threads = 8;
        const int Share = 40 * 65536;
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = Threads * Share }, null,
            new FormatOpenArguments { Compress = CompressedWrites.AsImage });
        int next = 0;
        Parallel.For(0, Threads, new ParallelOptions { MaxDegreeOfParallelism = Threads }, worker =>
        {
            // Interleaved blocks: neighbours in a cluster come from different threads and out of order.
            while (true)
            {
                long offset = (long)(Interlocked.Increment(ref next) - 1) * blockSize;
                if (offset >= Threads * Share)
                    return;
                int length = (int)Math.Min(blockSize, (Threads * (long)Share) - offset);
                image.Write(offset, length, Stamp.Compressible | 3);
                image.ShouldRead(offset, length, Stamp.Compressible | 3);
                if (worker == 0 && offset % 37 == 0)
                    image.Device.Flush();
            }
        });
        Flushed(image).ShouldRead(0, Threads * Share, Stamp.Compressible | 3).ShouldPassCheck();
        image.Reopen().ShouldRead(0, Threads * Share, Stamp.Compressible | 3);
    }

    /// <summary>The flush of a check then writes the refcounts that this one lowers.</summary>
    private static TestImage Flushed(TestImage image)
    {
        image.Device.Flush();
        return image;
    }
}

/// <summary>Compressed writes allocate no managed memory.</summary>
[Collection(nameof(Alone))]
public sealed class CompressedDataPathTests
{
    private const long BytesAllowed = 64 * 1024;
    private const int RoundsMax = 10;

    /// <summary>Until the file has the length that rewriting needs, the memory device takes chunks.</summary>
    private const int WarmUpRounds = 12;

    [Theory]
    [InlineData(CompressionType.Deflate, 4096)]
    [InlineData(CompressionType.Deflate, 1000)]
    [InlineData(CompressionType.Zstd, 4096)]
    public void Writes_in_small_pieces_allocate_nothing(CompressionType compression, int blockSize)
    {
        const int DiskBytes = 4 << 20;
        MemoryDevice file = new(0);
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = DiskBytes, Compression = compression });

        // The memory device would give punched chunks back and take new ones.
        using Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments
        {
            Compress = CompressedWrites.AsImage,
            Discard = DiscardMode.Ignore,
        });
        byte[] buffer = Stamp.Bytes(0, blockSize, Stamp.Compressible | 1);
        for (int round = 0; round < WarmUpRounds; round++)
            Work(device, buffer, DiskBytes);

        // The figure is of the process, and the test runner's own threads add to it.
        long least = long.MaxValue;
        for (int round = 0; round < RoundsMax && least > BytesAllowed; round++)
        {
            long before = GC.GetTotalAllocatedBytes(precise: true);
            Work(device, buffer, DiskBytes);
            least = Math.Min(least, GC.GetTotalAllocatedBytes(precise: true) - before);
        }

        Assert.InRange(least, 0, BytesAllowed);
    }

    private static void Work(Qcow2Device device, byte[] buffer, int diskBytes)
    {
        for (int at = 0; at + buffer.Length <= diskBytes; at += buffer.Length)
            device.Write(at, buffer);
        device.Flush();
    }
}
