// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Finished clusters that are stored by threads of their own.</summary>
public sealed class CompressedPackerTests
{
    private const int ClusterSize = 65536;
    private const ulong Soft = Stamp.Compressible;

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(8)]
    public void Clusters_lie_in_the_file_in_the_order_in_which_they_were_written(int packers)
    {
        const int Clusters = 256;
        using TestImage image = Create(Clusters, packers);
        for (int i = 0; i < Clusters; i++)
            image.Write((long)i * ClusterSize, ClusterSize, Soft | (uint)i);
        image.Close();
        long before = 0;
        for (int i = 0; i < Clusters; i++)
        {
            long host = (long)(image.L2EntryOf((long)i * ClusterSize) & ((1UL << 54) - 1));
            Assert.True(host > before, $"cluster {i} lies at {host}, the one before at {before}");
            before = host;
        }

        image.Reopen();
        for (int i = 0; i < Clusters; i++)
            image.ShouldRead((long)i * ClusterSize, ClusterSize, Soft | (uint)i);
        image.ShouldPassCheck();
    }

    /// <summary>
    /// A discard gives back what the tables cannot drop, while it goes on with the rest of its range. Whoever stores
    /// that then is not disturbed by the end of the discard: what a writer gathers meanwhile would be lost.
    /// </summary>
    [Fact]
    public void A_cluster_that_a_discard_has_given_back_is_not_its_own_any_more()
    {
        const int Small = 4096;
        const long Border = 512L * Small;
        const long First = Border - Small;
        byte[] backing = Stamp.Bytes(0, 2 * (int)Border, 1);
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = backing.Length, Version = 2, ClusterSize = Small },
            backing,
            Compressing(packers: 0));

        // Each in an L2 table of its own, and neither becomes smaller: what completes it is read at its place.
        image.Write(First, Small, 2).Write(Border, Small, 2).Reopen();
        long host = (long)(image.L2EntryOf(First) & 0x00FF_FFFF_FFFF_FE00);
        long table = (long)(image.PeekBigEndian((long)image.PeekBigEndian(40) + 8) & 0x00FF_FFFF_FFFF_FE00);
        image.Write(First, 512, 3);

        using HeldRequest tableRead = image.Faults.Hold(BlockOp.Read, offset: table, length: Small);
        using HeldRequest dataRead = image.Faults.Hold(BlockOp.Read, offset: host, length: Small);
        TestThread discarding = TestThread.Start(() => image.Device.Discard(First, 2 * Small));
        tableRead.WaitUntilHeld();
        TestThread flushing = TestThread.Start(image.Device.Flush);
        dataRead.WaitUntilHeld();
        tableRead.Release();
        discarding.ShouldEnd();
        TestThread writing = TestThread.Start(() => image.Write(First + 1024, 512, 4));
        writing.ShouldWait("it is gathered with what is being stored");
        dataRead.Release();
        flushing.ShouldEnd();
        writing.ShouldEnd();
        image.ShouldRead(First, 512, 3).ShouldRead(First + 512, 512, 2).ShouldRead(First + 1024, 512, 4)
            .ShouldRead(First + 1536, Small - 1536, 2);
    }

    [Theory]
    [InlineData(Soft)]
    [InlineData(0)]
    public void An_image_that_is_closed_at_once_holds_everything(ulong kind)
    {
        const int Clusters = 40;
        using TestImage image = Create(Clusters, packers: 3);
        for (int round = 0; round < 5; round++)
        {
            image.Write(0, Clusters * ClusterSize, kind | (uint)round).Write(777, 55, kind | 99).Reopen()
                .ShouldRead(0, 777, kind | (uint)round).ShouldRead(777, 55, kind | 99)
                .ShouldRead(832, (Clusters * ClusterSize) - 832, kind | (uint)round);
        }

        image.ShouldPassCheck();
    }

    [Fact]
    public void A_failure_nobody_waited_for_is_told_once_by_the_next_flush_and_nothing_is_lost()
    {
        using TestImage image = Create(16, packers: 2);
        image.Write(0, ClusterSize, 1).Device.Flush();

        // What does not become smaller is written at once, and that may be tried again.
        image.Faults.Fail(new FaultRule { Op = BlockOp.Write });
        image.Write(ClusterSize, ClusterSize, 2);
        Eventually.Holds(() => image.Faults.FailureCount > 0);
        image.ShouldRead(ClusterSize, ClusterSize, 2);
        BlockException failure = Assert.Throws<BlockException>(image.Device.Flush);
        Assert.Equal(BlockErrorKind.Io, failure.Kind);
        image.Device.Flush();
        image.Write(2 * ClusterSize, ClusterSize, Soft | 3).Reopen().ShouldRead(0, ClusterSize, 1)
            .ShouldRead(ClusterSize, ClusterSize, 2).ShouldRead(2 * ClusterSize, ClusterSize, Soft | 3)
            .ShouldPassCheck();
    }

    [Fact]
    public void After_a_failure_writers_are_told_themselves_until_a_flush()
    {
        using TestImage image = Create(16, packers: 2);
        image.Write(0, ClusterSize, 1).Device.Flush();
        image.Faults.Fail(new FaultRule { Op = BlockOp.Write, Times = int.MaxValue });
        image.Write(ClusterSize, ClusterSize, 2);
        Eventually.Holds(() => image.Faults.FailureCount > 0);

        // The packer says what it met only after the request has failed.
        int accepted = 0;
        try
        {
            for (; accepted < 6; accepted++)
                image.Write((2 + accepted) * ClusterSize, ClusterSize, 3);
        }
        catch (BlockException failure)
        {
            Assert.Equal(BlockErrorKind.Io, failure.Kind);
        }

        Assert.InRange(accepted, 0, 5);
        Assert.Throws<BlockException>(image.Device.Flush);
        image.Faults.Heal();
        image.Device.Flush();
        image.Reopen().ShouldRead(0, ClusterSize, 1).ShouldRead(ClusterSize, ClusterSize, 2)
            .ShouldRead(2 * ClusterSize, accepted * ClusterSize, 3).ShouldPassCheck();
    }

    /// <summary>
    /// What the last cluster holds behind the end of a disk that was made smaller is old. A packer that completes the
    /// cluster while the disk grows over that must not put it back.
    /// </summary>
    [Fact]
    public void Old_bytes_behind_the_end_do_not_come_back_with_a_cluster_that_is_completed_while_the_disk_grows()
    {
        const int Half = ClusterSize / 2;
        using TestImage image = Create(2, packers: 1);
        image.Write(0, 2 * ClusterSize, 5).Device.Flush();
        image.Device.Resize(ClusterSize + Half);
        image.Device.Flush();

        // The disk grows, and what zeroes the rest of the last cluster is on its way.
        using HeldRequest held = image.Faults.Hold(BlockOp.Write);
        TestThread growth = TestThread.Start(() => image.Device.Resize(2 * ClusterSize));
        held.WaitUntilHeld();

        // All that the guest sees of the cluster is written, and the packer is done with it when a flush has ended.
        image.Write(ClusterSize, Half, Soft | 6).Device.Flush();
        held.Release();
        growth.ShouldEnd();
        image.Device.Flush();
        image.ShouldRead(0, ClusterSize, 5).ShouldRead(ClusterSize, Half, Soft | 6)
            .ShouldReadZeroes(ClusterSize + Half, Half).ShouldPassCheck();
    }

    [Theory]
    [InlineData(2)]
    [InlineData(int.MaxValue)]
    public void A_flush_that_fails_tells_of_all_that_was_written_before_it(int failures)
    {
        using TestImage image = Create(16, packers: 2);
        image.Write(0, ClusterSize, 1).Device.Flush();
        image.Faults.Fail(new FaultRule { Op = BlockOp.Write, Times = failures });
        using HeldRequest first = image.Faults.Hold(BlockOp.Write);
        using HeldRequest second = image.Faults.Hold(BlockOp.Write, nth: 2);
        image.Write(ClusterSize, ClusterSize, 2).Write(2 * ClusterSize, ClusterSize, 3);
        first.WaitUntilHeld();
        first.Release();
        second.WaitUntilHeld();

        // The flush finds the first cluster's failure, and the second cluster under way, which fails while it waits.
        TestThread flush = TestThread.Start(image.Device.Flush);
        flush.ShouldWait("a packer is storing a cluster");
        second.Release();
        Assert.Equal(BlockErrorKind.Io, flush.ShouldThrow<BlockException>().Kind);
        image.Faults.Heal();
        image.Device.Flush();
        image.Reopen().ShouldRead(0, ClusterSize, 1).ShouldRead(ClusterSize, ClusterSize, 2)
            .ShouldRead(2 * ClusterSize, ClusterSize, 3).ShouldPassCheck();
    }

    [Fact]
    public void A_failed_write_of_packed_clusters_that_nobody_was_told_of_fails_the_close()
    {
        // No writer waits for room in the queue of eight packers, and none comes after the failure, which is held back.
        const int Clusters = 16;
        using TestImage image = Create(64, packers: 8);
        image.Write(0, ClusterSize, Soft | 1).Device.Flush();
        image.Faults.Fail(new FaultRule { Op = BlockOp.Write });
        using HeldRequest held = image.Faults.Hold(BlockOp.Write);
        for (int i = 1; i <= Clusters; i++)
            image.Write(i * ClusterSize, ClusterSize, Soft | 3);
        held.WaitUntilHeld();
        held.Release();
        Assert.Throws<BlockException>(image.Device.Dispose);
        Assert.Equal(1, image.Faults.FailureCount);
        image.Faults.Heal();
        image.Reopen().ShouldRead(0, ClusterSize, Soft | 1).ShouldPassCheck(allowLeaks: true);
    }

    [Fact]
    public void Writers_zeroes_discards_flushes_and_snapshots_get_along()
    {
        const int Writers = 3;
        using TestImage image = Create(Writers * Regional.Clusters, packers: 3);
        var device = (Qcow2Device)image.Device;
        Regional[] writers = [.. Enumerable.Range(0, Writers).Select(i => new Regional(device, i))];
        Exception?[] failures = new Exception?[Writers];
        Thread[] threads = new Thread[Writers];
        for (int i = 0; i < Writers; i++)
        {
            int mine = i;
            threads[i] = new Thread(() => failures[mine] = Record.Exception(writers[mine].Run));
            threads[i].Start();
        }

        for (int round = 0; Array.Exists(threads, static thread => thread.IsAlive); round++)
        {
            device.Flush();
            if (round % 3 == 0)
                device.CreateSnapshot("now");
            if (round % 3 != 0)
                continue;

            // Somebody writes while there is a snapshot.
            int before = writers.Sum(static writer => writer.Done);
            Eventually.Holds(() => writers.Sum(static writer => writer.Done) > before
                || !Array.Exists(threads, static thread => thread.IsAlive));
            device.DeleteSnapshot("now");
        }

        foreach (Thread thread in threads)
            thread.Join();
        Assert.All(failures, Assert.Null);
        image.Reopen();
        Assert.All(writers, writer => image.ShouldRead(writer.Start, writer.Expected));
        image.ShouldPassCheck();
    }

    private static TestImage Create(int clusters, int packers) => TestImage.Create(
        new Qcow2CreateOptions { Size = (long)clusters * ClusterSize, ClusterSize = ClusterSize },
        null,
        Compressing(packers));

    private static FormatOpenArguments Compressing(int packers) => new()
    {
        Compress = CompressedWrites.AsImage,
        Formats = [new Qcow2Options { CompressionThreads = packers }],
    };

    /// <summary>Changes a region of the disk that nobody else changes, and knows what it holds.</summary>
    private sealed class Regional(Qcow2Device device, int number)
    {
        public const int Clusters = 24;

        private const int Rounds = 250;

        private int _done;

        public long Start { get; } = (long)number * Clusters * ClusterSize;

        public byte[] Expected { get; } = new byte[Clusters * ClusterSize];

        /// <summary>How many operations it has done.</summary>
        public int Done => Volatile.Read(ref _done);

        public void Run()
        {
            SeededRandom random = new((ulong)number + 7);
            for (int round = 0; round < Rounds; round++, Interlocked.Increment(ref _done))
            {
                int at = random.Below(Clusters) * ClusterSize;
                int length = Math.Min((1 + random.Below(4)) * ClusterSize, Expected.Length - at);
                switch (random.Below(8))
                {
                    case 0:
                        device.WriteZeroes(Start + at, length, mayUnmap: random.Chance(50));
                        Expected.AsSpan(at, length).Clear();
                        break;
                    case 1:
                        device.Discard(Start + at, length);
                        Expected.AsSpan(at, length).Clear();
                        break;
                    case 2:
                        Write(at + (512 * random.Below(64)), 512 * (1 + random.Below(64)), Soft | (uint)round);
                        break;
                    case 3:
                        Write(at, length, (uint)round);
                        break;
                    case 4:
                        byte[] seen = new byte[length];
                        device.Read(Start + at, seen);
                        Assert.True(seen.AsSpan().SequenceEqual(Expected.AsSpan(at, length)), $"round {round}");
                        break;
                    default:
                        Write(at, length, Soft | (uint)round);
                        break;
                }
            }
        }

        private void Write(int at, int length, ulong tag)
        {
            byte[] bytes = Stamp.Bytes(Start + at, length, tag);
            device.Write(Start + at, bytes);
            bytes.CopyTo(Expected, at);
        }
    }
}
