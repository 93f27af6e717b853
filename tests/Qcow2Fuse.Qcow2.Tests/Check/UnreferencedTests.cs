// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Metadata;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Check;

/// <summary>The host clusters that no table refers to.</summary>
public sealed class UnreferencedTests
{
    private const int Cluster = 65536;

    private static readonly TimeSpan Patience = Eventually.Patience;

    [Theory]
    [Qcow2Matrix]
    public void Clusters_without_a_reference_are_shown_in_their_places(int version, int clusterSize, bool extendedL2)
    {
        using TestImage image = TestImage.Create(version, clusterSize, extendedL2);
        image.Write(0, 8 * clusterSize, tag: 1);
        Qcow2(image).CreateSnapshot("one");
        image.Write(2L * clusterSize, 3 * clusterSize, tag: 2);
        image.Reopen();
        long host = Lose(image, 4 * clusterSize);
        using BlockDevice seen = Qcow2(image).OpenUnreferenced();
        ShouldBeRight(image, seen);
        byte[] carved = new byte[clusterSize];
        seen.Read(host, carved);
        Assert.Equal(Stamp.Bytes(4L * clusterSize, clusterSize, 2), carved);
        Assert.Equal(BlockErrorKind.ReadOnly, Assert.Throws<BlockException>(() => seen.Write(0, carved)).Kind);
        Assert.Equal(BlockErrorKind.ReadOnly, Assert.Throws<BlockException>(
            () => seen.WriteZeroes(0, 512, mayUnmap: true)).Kind);
    }

    [Fact]
    public void A_read_only_image_is_not_written_for_it()
    {
        using TestImage image = TestImage.Create(version: 3, Cluster, extendedL2: false);
        image.Write(0, 3 * Cluster, tag: 1).Reopen();
        long host = Lose(image, Cluster);
        image.Close();
        int changes = image.Disk.Log.Count;
        using Qcow2Device device = Qcow2Device.Open(image.Order, new FormatOpenArguments { ReadOnly = true });
        using BlockDevice seen = device.OpenUnreferenced();
        ShouldBeRight(image, seen);
        byte[] carved = new byte[Cluster];
        seen.Read(host, carved);
        Assert.Equal(Stamp.Bytes(Cluster, Cluster, 1), carved);
        Assert.Equal(changes, image.Disk.Log.Count);
    }

    [Fact]
    public async Task Guests_go_on_while_tables_are_read_and_what_they_take_is_not_shown()
    {
        using TestImage image = TestImage.Create(version: 3, Cluster, extendedL2: false);
        image.Write(0, 16 * Cluster, tag: 1);
        image.Device.Discard(4 * Cluster, 4 * Cluster);
        image.Device.Flush();
        image.Device.Flush();
        using HeldRequest held = image.Faults.Hold(BlockOp.Read, offset: L2Table(image), length: Cluster);
        Task<BlockDevice> opening = Task.Run(Qcow2(image).OpenUnreferenced);
        held.WaitUntilHeld();
        Task snapshot = Task.Run(() => Qcow2(image).CreateSnapshot("late"));

        // Two of the four free clusters inside the file, and one that is freed meanwhile.
        long freed = HostOf(image, 12 * Cluster);
        await Task.Run(() =>
        {
            image.Write(20 * Cluster, 2 * Cluster, tag: 2);
            image.Device.Discard(12 * Cluster, Cluster);
            image.Device.Flush();
            image.Device.Flush();
            image.Write(30 * Cluster, 4 * Cluster, tag: 3);
        }).WaitAsync(Patience);
        Assert.False(opening.IsCompleted || snapshot.IsCompleted);
        held.Release();
        using BlockDevice seen = await opening.WaitAsync(Patience);
        await snapshot.WaitAsync(Patience);
        image.Device.Flush();
        long[] taken = [.. Enumerable.Range(0, 34).Select(cluster => HostOf(image, cluster * Cluster))];
        Assert.DoesNotContain(freed, taken);
        foreach (long host in taken.Where(host => host != 0 && host < seen.Length))
            Assert.Equal(ExtentKind.Zero, seen.GetExtent(host, Cluster).Kind);
        image.ShouldRead(20 * Cluster, 2 * Cluster, tag: 2).ShouldRead(30 * Cluster, 4 * Cluster, tag: 3);
        image.Reopen().ShouldPassCheck();
    }

    [Fact]
    public void What_is_freed_while_tables_are_read_is_free_afterwards()
    {
        using TestImage image = TestImage.Create(version: 3, Cluster, extendedL2: false);
        image.Write(0, 8 * Cluster, tag: 1);
        for (int i = 0; i < 20; i++)
        {
            using BlockDevice seen = Qcow2(image).OpenUnreferenced();
            image.Device.Discard(0, 8 * Cluster);
            image.Device.Flush();
            image.Device.Flush();
            image.Write(0, 8 * Cluster, tag: (ulong)i);
        }

        Assert.InRange(image.Disk.Length, 8 * Cluster, 22 * Cluster);
        image.ShouldPassCheck();
    }

    [Fact]
    public void More_allocations_than_can_be_remembered_are_noticed()
    {
        AllocationLog log = new();
        for (int i = 0; i < 1 << 16; i++)
            log.Add(2L * i, 1);
        log.Add((2 << 16) - 1, 5);
        Assert.False(log.HasOverflowed);
        Assert.Equal(new ClusterRun((2 << 16) - 2, 6), log.Runs[^1]);
        log.Add(1, 1);
        Assert.True(log.HasOverflowed);
    }

    [Fact]
    public void Runs_are_taken_away_as_cluster_by_cluster()
    {
        SeededRandom random = new(20);
        for (int trial = 0; trial < 500; trial++)
        {
            bool[] expected = new bool[200];
            List<ClusterRun> runs = [];
            for (int at = random.Below(5); at < 190; at += 1 + random.Below(8))
            {
                runs.Add(new ClusterRun(at, 1 + random.Below(8)));
                Array.Fill(expected, true, at, (int)runs[^1].Count);
                at = (int)runs[^1].End;
            }

            ClusterRun[] others = [.. Enumerable.Range(0, random.Below(10)).Select(
                _ => new ClusterRun(random.Below(180), 1 + random.Below(19)))];
            foreach (ClusterRun other in others)
                Array.Fill(expected, false, (int)other.First, (int)other.Count);
            bool[] seen = new bool[200];
            foreach (ClusterRun left in ClusterRuns.Without(runs, others))
                Array.Fill(seen, true, (int)left.First, (int)left.Count);
            Assert.Equal(expected, seen);
        }
    }

    private static Qcow2Device Qcow2(TestImage image) => (Qcow2Device)image.Device;

    private static long L2Table(TestImage image) =>
        (long)(image.PeekBigEndian((long)image.PeekBigEndian(40)) & PlainReader.OffsetMask);

    private static long HostOf(TestImage image, long guest) =>
        (long)(image.L2EntryOf(guest) & PlainReader.OffsetMask);

    /// <summary>Has the L2 table forget a cluster behind the engine's back, which is opened again.</summary>
    /// <returns>The cluster's host offset.</returns>
    private static long Lose(TestImage image, int guest)
    {
        image.Close();
        long host = HostOf(image, guest);
        PlainHeader header = image.Plain.Header;
        int entryBytes = (header.Incompatible & 16) != 0 ? 16 : 8;
        long perTable = header.ClusterSize / entryBytes;
        long cluster = guest / header.ClusterSize;
        long l1 = (long)image.PeekBigEndian(40) + (cluster / perTable * 8);
        long table = (long)(image.PeekBigEndian(l1) & PlainReader.OffsetMask);
        long place = table + (cluster % perTable * entryBytes);
        image.Poke(place, 0);
        if (entryBytes == 16)
            image.Poke(place + 8, 0);
        image.Reopen();
        return host;
    }

    /// <summary>Compares with what another traversal says of every cluster.</summary>
    private static void ShouldBeRight(TestImage image, BlockDevice seen)
    {
        PlainReader plain = image.Plain;
        PlainCheck check = plain.Check(allowStaleFlags: true);
        int size = plain.Header.ClusterSize;
        Assert.Equal((image.Disk.Length + size - 1) / size * size, seen.Length);
        byte[] expected = new byte[seen.Length];
        for (long cluster = 0; cluster < seen.Length / size; cluster++)
        {
            bool isReferenced = check.IsReferenced(cluster);
            long at = cluster * size;
            int length = (int)Math.Min(size, image.Disk.Length - at);
            if (isReferenced)
                Assert.Equal(ExtentKind.Zero, seen.GetExtent(at, size).Kind);
            else
                plain.File.Read(at, expected.AsSpan((int)at, length));
        }

        byte[] bytes = new byte[seen.Length];
        seen.Read(0, bytes);
        Assert.True(expected.AsSpan().SequenceEqual(bytes), "the bytes differ");
        Assert.Contains(true, expected.Select(static value => value != 0));
    }
}
