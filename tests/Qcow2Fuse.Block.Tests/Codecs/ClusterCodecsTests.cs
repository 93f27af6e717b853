// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.IO.Compression;
using Qcow2Fuse.Linux.Codecs;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Block.Tests;

public sealed class ClusterCodecsTests
{
    private const int ClusterSize = 65536;

    public static TheoryData<CompressionKind> Kinds => [CompressionKind.Deflate, CompressionKind.Zstd];

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void A_cluster_comes_out_as_it_went_in(CompressionKind kind)
    {
        foreach (byte[] cluster in new[] { new byte[ClusterSize], Text(ClusterSize), DeviceModel.Pattern(512, 1) })
        {
            byte[] output = new byte[cluster.Length];
            Assert.True(ClusterCodecs.TryDecompress(kind, Compress(kind, cluster), output));
            Assert.Equal(cluster, output);
        }
    }

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void What_follows_the_compressed_data_is_ignored(CompressionKind kind)
    {
        byte[] cluster = Text(ClusterSize);
        byte[] output = new byte[ClusterSize];
        byte[] input = [.. Compress(kind, cluster), .. DeviceModel.Pattern(511, seed: 1)];
        Assert.True(ClusterCodecs.TryDecompress(kind, input, output));
        Assert.Equal(cluster, output);
    }

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void Too_little_cut_off_or_damaged_data_is_an_error(CompressionKind kind)
    {
        byte[] output = new byte[ClusterSize];
        byte[] whole = Compress(kind, Text(ClusterSize));
        Assert.False(ClusterCodecs.TryDecompress(kind, Compress(kind, Text(ClusterSize - 1)), output));
        Assert.False(ClusterCodecs.TryDecompress(kind, whole.AsSpan(0, whole.Length / 2), output));
        Assert.False(ClusterCodecs.TryDecompress(kind, [], output));
        Assert.False(ClusterCodecs.TryDecompress(kind, [.. DeviceModel.Pattern(2000, seed: 4)], output));
        byte[] damaged = (byte[])whole.Clone();
        damaged.AsSpan(0, 8).Fill(0xff);
        Assert.False(ClusterCodecs.TryDecompress(kind, damaged, output));

        // A context that met an error serves the next cluster like a fresh one.
        Assert.True(ClusterCodecs.TryDecompress(kind, whole, output));
        Assert.Equal(Text(ClusterSize), output);
    }

    [SkippableFact]
    public void Several_zstd_frames_may_make_up_a_cluster()
    {
        byte[] cluster = Text(ClusterSize);
        byte[] input =
        [
            .. Compress(CompressionKind.Zstd, cluster[..10000]),
            .. Compress(CompressionKind.Zstd, cluster[10000..]),
            .. new byte[300],
        ];
        byte[] output = new byte[ClusterSize];
        Assert.True(ClusterCodecs.TryDecompress(CompressionKind.Zstd, input, output));
        Assert.Equal(cluster, output);
    }

    [SkippableFact]
    public void A_zstd_frame_longer_than_the_cluster_is_an_error()
    {
        byte[] input = Compress(CompressionKind.Zstd, Text(ClusterSize + 1));
        Assert.False(ClusterCodecs.TryDecompress(CompressionKind.Zstd, input, new byte[ClusterSize]));
    }

    [Theory]
    [InlineData(23, true)]
    [InlineData(24, false)]
    [InlineData(31, false)]
    public void A_zstd_frame_may_ask_for_a_window_of_8_MiB_and_no_more(int windowLog, bool accepted)
    {
        // RFC 8878, 3.1.1: magic, frame header without content size, window descriptor, one raw block that is the last.
        const int BlockHeader = (ClusterSize << 3) | 1;
        byte[] cluster = Text(ClusterSize);
        byte[] input =
        [
            0x28, 0xB5, 0x2F, 0xFD, 0x00, (byte)((windowLog - 10) << 3),
            BlockHeader & 0xff, (BlockHeader >> 8) & 0xff, BlockHeader >> 16,
            .. cluster,
        ];
        byte[] output = new byte[ClusterSize];
        Assert.Equal(accepted, ClusterCodecs.TryDecompress(CompressionKind.Zstd, input, output));
        if (accepted)
            Assert.Equal(cluster, output);
    }

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void Decompression_allocates_no_managed_memory_and_is_safe_on_many_threads(CompressionKind kind)
    {
        byte[] cluster = Text(ClusterSize);
        byte[] input = Compress(kind, cluster);
        Task<long>[] tasks = [.. Enumerable.Range(0, 4).Select(_ => Task.Run(() =>
        {
            byte[] output = new byte[ClusterSize];
            bool sound = true;
            Work();
            long allocated = ManagedAllocation.Of(Work);
            return sound ? allocated : -1;

            void Work()
            {
                for (int i = 0; i < 1000; i++)
                {
                    output.AsSpan().Clear();
                    sound &= ClusterCodecs.TryDecompress(kind, input, output)
                        && output.AsSpan().SequenceEqual(cluster);
                }
            }
        }))];
        foreach (Task<long> task in tasks)
            Assert.InRange(task.Result, 0, 20_000); // 20 bytes a call: less than any object takes
    }

    private static byte[] Text(int length) =>
        [.. Enumerable.Range(0, length).Select(static i => (byte)("the quick brown fox "[i % 20] + (i / 997 % 7)))];

    private static byte[] Compress(CompressionKind kind, byte[] data)
    {
        if (kind == CompressionKind.Zstd)
            return CompressZstd(data);
        using MemoryStream compressed = new();
        using (DeflateStream deflate = new(compressed, CompressionLevel.Optimal))
            deflate.Write(data);
        return compressed.ToArray();
    }

    private static byte[] CompressZstd(byte[] data)
    {
        ToolRequirement.Require("zstd");
        using ScratchDirectory scratch = new();
        File.WriteAllBytes(scratch.At("data"), data);
        ProcessStartInfo start = new("zstd", ["-q", scratch.At("data"), "-o", scratch.At("data.zst")]);
        using Process process = Process.Start(start)!;
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
        return File.ReadAllBytes(scratch.At("data.zst"));
    }
}
