// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>Writers that meet in one cluster, through the mount.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class ParallelWriteTests : MountTest
{
    private const int Writers = 8;
    private const int ClusterSize = 65536;
    private const int Piece = 2048;

    [SkippableTheory]
    [InlineData("extended_l2=on", "")]
    [InlineData("extended_l2=on", "cache=none")]
    [InlineData("compat=1.1", "")]
    [InlineData("compat=0.10,cluster_size=4k", "")]
    public void Different_parts_of_new_clusters_all_arrive(string options, string mountOptions)
    {
        const int Clusters = 64;
        string image = NewImage(options: options);
        string raw = Mount(image, NewMountPoint(), mountOptions.Length > 0 ? ["-o", mountOptions] : []);

        // Writer n owns every piece whose number is n modulo the writers, so each cluster is allocated by a race.
        Run(writer =>
        {
            using FileStream file = new(
                raw, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0);
            for (long at = writer * Piece; at < Clusters * (long)ClusterSize; at += Writers * Piece)
            {
                file.Position = at;
                file.Write(Stamp.Bytes(at, Piece, 7));
            }

            file.Flush(flushToDisk: true);
        });
        Unmount(Path.GetDirectoryName(raw)!);

        QemuTools.ShouldPassCheck(image);
        byte[] disk = QemuTools.ConvertToRaw(image);
        Assert.True(
            disk.AsSpan(0, Clusters * ClusterSize).SequenceEqual(Stamp.Bytes(0, Clusters * ClusterSize, 7)),
            "a piece is missing");
    }

    [SkippableTheory]
    [InlineData("extended_l2=on")]
    [InlineData("compat=1.1")]
    public void Of_overlapping_writes_one_wins_as_a_whole(string options)
    {
        const int Rounds = 40;
        string image = NewImage(options: options);
        string raw = Mount(image, NewMountPoint());

        // All writers write the same range of each new cluster at the same time, past the page cache, where nothing
        // but the daemon keeps them apart.
        for (int round = 0; round < Rounds; round++)
        {
            long at = (long)round * ClusterSize;
            string[] sources = [.. Enumerable.Range(0, Writers).Select(writer => PathOf($"source{writer}"))];
            for (int writer = 0; round == 0 && writer < Writers; writer++)
                File.WriteAllBytes(sources[writer], Enumerable.Repeat((byte)(writer + 1), 16384).ToArray());
            Run(writer => Tool(
                "dd", $"if={sources[writer]}", $"of={raw}", "bs=16384", $"seek={(at / 16384) + 1}", "count=1",
                "conv=notrunc", "oflag=direct", "status=none"));
        }

        Unmount(Path.GetDirectoryName(raw)!);
        QemuTools.ShouldPassCheck(image);
        byte[] disk = QemuTools.ConvertToRaw(image);
        for (int round = 0; round < Rounds; round++)
        {
            ReadOnlySpan<byte> cluster = disk.AsSpan(round * ClusterSize, ClusterSize);
            byte winner = cluster[16384];
            Assert.InRange(winner, 1, Writers);
            Assert.False(cluster[..16384].ContainsAnyExcept((byte)0), "the head is not zero");
            Assert.False(cluster[16384..32768].ContainsAnyExcept(winner), "two writers are mixed");
            Assert.False(cluster[32768..].ContainsAnyExcept((byte)0), "the tail is not zero");
        }
    }

    private static void Run(Action<int> work)
    {
        Thread[] threads = new Thread[Writers];
        List<Exception> failures = [];
        for (int i = 0; i < Writers; i++)
        {
            int writer = i;
            threads[i] = new Thread(() =>
            {
                try
                {
                    work(writer);
                }
                catch (Exception exception)
                {
                    lock (failures)
                        failures.Add(exception);
                }
            });
            threads[i].Start();
        }

        foreach (Thread thread in threads)
            thread.Join();
        if (failures.Count > 0)
            throw new AggregateException(failures);
    }
}
