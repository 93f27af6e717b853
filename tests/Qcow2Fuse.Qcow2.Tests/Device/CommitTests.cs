// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Metadata that reaches the file although nobody flushes.</summary>
public sealed class CommitTests
{
    private const int Cluster = 65536;

    private static readonly FormatOpenArguments Often = new() { CommitInterval = TimeSpan.FromMilliseconds(5) };

    [Theory]
    [InlineData(CompressedWrites.Off)]
    [InlineData(CompressedWrites.AsImage)]
    public void What_is_written_is_in_the_file_without_a_flush(CompressedWrites compress)
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 64 << 20 }, arguments: Often with { Compress = compress });
        image.Write(5, 3 * Cluster, 7);
        byte[] expected = Stamp.Bytes(5, 3 * Cluster, 7);
        Eventually.Holds(() => expected.AsSpan().SequenceEqual(Seen(image, 5, expected.Length)));
        Eventually.Holds(() => !IsSet(image));

        // And so what was changed after that.
        image.Device.WriteZeroes(Cluster, Cluster, mayUnmap: true);
        Eventually.Holds(() => !Seen(image, Cluster, Cluster).AsSpan().ContainsAnyExcept((byte)0));
        image.ShouldPassCheck();
    }

    [Fact]
    public void Nothing_is_to_be_flushed_where_no_metadata_changes()
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 64 << 20 },
            arguments: new FormatOpenArguments { CommitInterval = TimeSpan.FromDays(1) });
        image.ShouldReadZeroes(0, Cluster);
        Assert.False(IsSet(image));
        image.Write(0, Cluster, 1);
        Assert.True(IsSet(image));
        image.Reopen().Write(0, Cluster, 2).Write(100, 512, 3).ShouldRead(100, 512, 3);
        Assert.False(IsSet(image));
        image.Write(Cluster, 512, 3);
        Assert.True(IsSet(image));
    }

    [Fact]
    public void A_flush_of_the_guest_leaves_nothing_to_do()
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 64 << 20 },
            arguments: new FormatOpenArguments { CommitInterval = TimeSpan.FromMilliseconds(200) });
        image.Write(0, Cluster, 1).Device.Flush();
        image.Faults.ResetCounts();
        Eventually.Holds(() => !IsSet(image));
        Assert.Equal((0, 0), (image.Faults.CountOf(BlockOp.Flush), image.Faults.CountOf(BlockOp.Write)));
    }

    [Fact]
    public void A_failure_nobody_waited_for_is_told_once_by_the_next_flush()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 64 << 20 }, arguments: Often);
        image.Write(0, Cluster, 1);
        Eventually.Holds(() => !IsSet(image));

        // The first write is the guest's, of which nothing fails; the next is of a table.
        image.Faults.Fail(new FaultRule { Op = BlockOp.Write, Nth = 2 });
        image.Write(Cluster, Cluster, 2);
        Eventually.Holds(() => image.Faults.FailureCount > 0);
        Eventually.Holds(() => Stamp.Bytes(Cluster, Cluster, 2).AsSpan().SequenceEqual(Seen(image, Cluster, Cluster)));
        Assert.Equal(BlockErrorKind.Io, Assert.Throws<BlockException>(image.Device.Flush).Kind);
        image.Device.Flush();
        image.Reopen().ShouldRead(0, Cluster, 1).ShouldRead(Cluster, Cluster, 2).ShouldPassCheck();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_failure_that_is_final_is_told_by_the_next_flush_or_by_the_end(bool flushes)
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 64 << 20 }, arguments: Often);
        image.Faults.Fail(new FaultRule { Op = BlockOp.Flush, Times = int.MaxValue });
        image.Write(0, Cluster, 1);
        Eventually.Holds(() => ((Qcow2Device)image.Device).HasFailed);
        Assert.Equal(
            BlockErrorKind.Io,
            Assert.Throws<BlockException>(() => image.Write(Cluster, Cluster, 2)).Kind);
        if (flushes)
        {
            Assert.Throws<BlockException>(image.Device.Flush);
            Assert.Throws<BlockException>(image.Device.Flush);
            image.Close();
        }
        else
        {
            Assert.Equal(BlockErrorKind.Io, Assert.Throws<BlockException>(() => image.Close()).Kind);
        }
    }

    [Fact]
    public void The_end_waits_for_a_flush_that_has_begun()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 64 << 20 }, arguments: Often);
        using HeldRequest held = image.Faults.Hold(BlockOp.Flush);
        image.Write(0, Cluster, 1);
        held.WaitUntilHeld();
        TestThread close = TestThread.Start(() => image.Close());
        close.ShouldWait("the image is closed while it is flushed");
        held.Release();
        close.ShouldEnd();
        image.Reopen().ShouldRead(0, Cluster, 1).ShouldPassCheck();
    }

    /// <summary>What is gathered while a flush stores what was gathered before is not part of that flush.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void What_is_gathered_during_a_flush_is_in_the_file_without_another(int flushes)
    {
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 64 << 20 },
            arguments: new FormatOpenArguments
            {
                CommitInterval = TimeSpan.FromMilliseconds(200),
                Compress = CompressedWrites.AsImage,
            });
        image.Write(0, 512, 1);
        TestThread[] flushing;
        using (HeldRequest held = image.Faults.Hold(BlockOp.Write))
        {
            flushing = [.. Enumerable.Range(0, flushes).Select(_ => TestThread.Start(image.Device.Flush))];
            held.WaitUntilHeld();
            image.Write(5 * Cluster, 512, 2);
            held.Release();
        }

        foreach (TestThread one in flushing)
            one.ShouldEnd();
        byte[] expected = Stamp.Bytes(5 * Cluster, 512, 2);
        Eventually.Holds(() => expected.AsSpan().SequenceEqual(Seen(image, 5 * Cluster, expected.Length)));
        Eventually.Holds(() => !IsSet(image));
    }

    private static bool IsSet(TestImage image) => ((Qcow2Device)image.Device).IsCommitSet;

    /// <summary>What somebody else reads in the file now, as after the process is killed.</summary>
    private static byte[] Seen(TestImage image, long offset, int length)
    {
        byte[] seen = new byte[length];
        new PlainReader(new ArrayImage(image.Disk.Copy())).Read(offset, seen);
        return seen;
    }
}
