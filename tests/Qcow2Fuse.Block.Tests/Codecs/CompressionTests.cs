// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Codecs;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Block.Tests;

/// <summary>Compression of clusters.</summary>
public sealed class CompressionTests
{
    private const int ClusterSize = 65536;

    public static TheoryData<CompressionKind> Kinds => [CompressionKind.Deflate, CompressionKind.Zstd];

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void What_is_compressed_comes_out_as_it_went_in(CompressionKind kind)
    {
        foreach (int length in (int[])[512, 4096, ClusterSize, 2 << 20])
        {
            foreach (byte[] cluster in (byte[][])
                [new byte[length], Far(length), Stamp.Bytes(0, length, Stamp.Compressible | 1)])
            {
                byte[] packed = new byte[length - 1];
                Assert.True(ClusterCodecs.TryCompress(kind, cluster, packed, out int bytes));
                Assert.InRange(bytes, 1, length - 1);
                byte[] output = new byte[length];
                Assert.True(ClusterCodecs.TryDecompress(kind, packed.AsSpan(0, bytes), output));
                Assert.Equal(cluster, output);
            }
        }
    }

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void What_does_not_become_smaller_is_not_compressed(CompressionKind kind)
    {
        byte[] noise = new byte[ClusterSize];
        new Random(1).NextBytes(noise);
        Assert.False(ClusterCodecs.TryCompress(kind, noise, new byte[2 * ClusterSize], out _));
        Assert.False(ClusterCodecs.TryCompress(kind, Far(ClusterSize), new byte[100], out _));
        Assert.False(ClusterCodecs.TryCompress(kind, [], new byte[100], out _));

        // A context that gave up serves the next cluster like a fresh one.
        byte[] packed = new byte[ClusterSize];
        Assert.True(ClusterCodecs.TryCompress(kind, Far(ClusterSize), packed, out int bytes));
        byte[] output = new byte[ClusterSize];
        Assert.True(ClusterCodecs.TryDecompress(kind, packed.AsSpan(0, bytes), output));
        Assert.Equal(Far(ClusterSize), output);
    }

    [Fact]
    public void Deflate_streams_reach_back_no_more_than_4096_bytes()
    {
        foreach (int length in (int[])[4096, ClusterSize, 2 << 20])
        {
            byte[] cluster = Far(length);
            byte[] packed = new byte[length];
            Assert.True(ClusterCodecs.TryCompress(CompressionKind.Deflate, cluster, packed, out int bytes));
            (int distance, byte[] unpacked) = DeflateWalker.Walk(packed.AsSpan(0, bytes));
            Assert.InRange(distance, 1, 4096);
            Assert.Equal(cluster, unpacked);
        }
    }

    [Fact]
    public void The_walker_sees_long_distances_where_there_are_some()
    {
        byte[] cluster = Far(ClusterSize);
        using MemoryStream packed = new();
        using (System.IO.Compression.DeflateStream deflate =
            new(packed, System.IO.Compression.CompressionLevel.Optimal, leaveOpen: true))
            deflate.Write(cluster);
        (int distance, byte[] unpacked) = DeflateWalker.Walk(packed.ToArray());
        Assert.True(distance > 4096);
        Assert.Equal(cluster, unpacked);
    }

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void Compression_allocates_no_managed_memory_and_is_safe_on_many_threads(CompressionKind kind)
    {
        byte[] cluster = Far(ClusterSize);
        Task<long>[] tasks = [.. Enumerable.Range(0, 4).Select(_ => Task.Run(() =>
        {
            byte[] packed = new byte[ClusterSize];
            byte[] output = new byte[ClusterSize];
            bool sound = true;
            Work();
            long allocated = ManagedAllocation.Of(Work);
            return sound ? allocated : -1;

            void Work()
            {
                for (int i = 0; i < 100; i++)
                {
                    sound &= ClusterCodecs.TryCompress(kind, cluster, packed, out int bytes)
                        && ClusterCodecs.TryDecompress(kind, packed.AsSpan(0, bytes), output)
                        && output.AsSpan().SequenceEqual(cluster);
                }
            }
        }))];
        foreach (Task<long> task in tasks)
            Assert.InRange(task.Result, 0, 2_000); // 20 bytes a round: less than any object takes
    }

    /// <summary>Words that come again after some 5000 bytes, and others that come again soon.</summary>
    private static byte[] Far(int length)
    {
        byte[] period = new byte[5003];
        for (int i = 0; i < period.Length; i++)
            period[i] = (byte)("a quick brown fox jumps"[i % 23] + (i / 311 % 5) + (i * i % 7));
        byte[] cluster = new byte[length];
        for (int i = 0; i < length; i++)
            cluster[i] = period[i % period.Length];
        return cluster;
    }
}
