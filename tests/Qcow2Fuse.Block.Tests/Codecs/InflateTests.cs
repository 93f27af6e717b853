// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Codecs;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Block.Tests;

/// <summary>Deflate streams are taken and refused alike with libdeflate and without it.</summary>
public sealed class InflateTests
{
    private const int ClusterSize = 16384;

    [Fact]
    public void A_library_that_is_not_there_is_not_needed()
    {
        Assert.False(LibdeflateInflater.CanLoad("libdeflate.so.missing"));
        Assert.False(LibdeflateInflater.CanLoad("libz.so.1"));
        byte[] output = new byte[ClusterSize];
        Assert.True(ClusterCodecs.TryInflate(Pack(1, ClusterSize), output));
        Assert.Equal(Stamp.Bytes(0, ClusterSize, Stamp.Compressible | 1), output);
    }

    [SkippableFact]
    public void Libdeflate_takes_what_comes_padded_to_sectors()
    {
        Skip.IfNot(LibdeflateInflater.IsAvailable, "libdeflate0 is not installed");
        byte[] output = new byte[ClusterSize];
        byte[] packed = Pack(1, ClusterSize);
        Assert.True(ClusterCodecs.TryInflateFast(packed, output));
        Assert.Equal(Stamp.Bytes(0, ClusterSize, Stamp.Compressible | 1), output);
        output.AsSpan().Clear();
        byte[] noise = new byte[511];
        new Random(1).NextBytes(noise);
        Assert.True(ClusterCodecs.TryInflateFast([.. packed, .. noise], output));
        Assert.Equal(Stamp.Bytes(0, ClusterSize, Stamp.Compressible | 1), output);
    }

    [Theory]
    [InlineData(ClusterSize - 1, false)]
    [InlineData(ClusterSize, true)]
    [InlineData(ClusterSize + 1, true)]
    [InlineData(2 * ClusterSize, true)]
    public void A_stream_may_be_longer_than_the_cluster_but_not_shorter(int length, bool accepted)
    {
        byte[] packed = Pack(1, length);
        byte[] output = new byte[ClusterSize];
        Assert.Equal(accepted, ClusterCodecs.TryInflate(packed, output));
        Assert.Equal(accepted, ClusterCodecs.TryDecompress(CompressionKind.Deflate, packed, output));
    }

    [SkippableFact]
    public void Damaged_streams_are_judged_alike()
    {
        Skip.IfNot(LibdeflateInflater.IsAvailable, "libdeflate0 is not installed");
        byte[] zlib = new byte[ClusterSize];
        byte[] fast = new byte[ClusterSize];
        SeededRandom random = new(3);
        int taken = 0, refused = 0;
        for (int round = 0; round < 4000; round++)
        {
            byte[] packed = Damaged(Pack((ulong)round % 16, ClusterSize), random);
            bool byZlib = ClusterCodecs.TryInflate(packed, zlib);
            bool byFast = ClusterCodecs.TryInflateFast(packed, fast);
            Assert.True(byZlib || !byFast, $"round {round}: zlib refuses what libdeflate takes");
            if (byFast)
                Assert.True(zlib.AsSpan().SequenceEqual(fast), $"round {round}: other bytes");
            Assert.Equal(byZlib, ClusterCodecs.TryDecompress(CompressionKind.Deflate, packed, fast));
            taken += byFast ? 1 : 0;
            refused += byZlib ? 0 : 1;
        }

        Assert.True(taken > 100 && refused > 100, $"{taken} taken, {refused} refused");
    }

    private static byte[] Pack(ulong tag, int length)
    {
        byte[] packed = new byte[length];
        Assert.True(ClusterCodecs.TryCompress(
            CompressionKind.Deflate, Stamp.Bytes(0, length, Stamp.Compressible | tag), packed, out int bytes));
        return packed[..bytes];
    }

    private static byte[] Damaged(byte[] packed, SeededRandom random)
    {
        switch (random.Below(4))
        {
            case 0:
                return packed[..random.Below(packed.Length)];
            case 1:
                packed[random.Below(Math.Min(packed.Length, 80))] ^= (byte)(1 << random.Below(8));
                return packed;
            case 2:
                packed[random.Below(packed.Length)] ^= (byte)(1 << random.Below(8));
                return packed;
            default:
                packed.AsSpan(random.Below(packed.Length)).Fill((byte)random.Below(256));
                return packed;
        }
    }
}
