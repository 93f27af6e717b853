// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Requests that meet, one of them held in the middle.</summary>
public sealed class ConcurrentWriteTests
{
    private const int ClusterSize = 16384;
    private const int SubclusterSize = 512;
    private static readonly TimeSpan Patience = Eventually.Patience;

    [Fact]
    public async Task Two_writers_fill_different_subclusters_of_one_cluster_at_once()
    {
        using TestImage image = TestImage.Create(3, ClusterSize, extendedL2: true);
        image.Write(0, SubclusterSize, 1);
        using HeldRequest held = image.Faults.Hold(BlockOp.Write);
        Task first = Task.Run(() => image.Write(4 * SubclusterSize, SubclusterSize, 2));
        held.WaitUntilHeld();

        await Task.Run(() => image.Write(8 * SubclusterSize, SubclusterSize, 3)).WaitAsync(Patience);
        Assert.False(first.IsCompleted);
        held.Release();
        await first.WaitAsync(Patience);

        image.ShouldRead(0, SubclusterSize, 1).ShouldRead(4 * SubclusterSize, SubclusterSize, 2)
            .ShouldRead(8 * SubclusterSize, SubclusterSize, 3).ShouldPassCheck();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task An_overlapping_allocating_write_waits_for_the_first(bool extendedL2)
    {
        using TestImage image = TestImage.Create(3, ClusterSize, extendedL2);
        image.Write(60L * ClusterSize, 512, 9);
        using HeldRequest held = image.Faults.Hold(BlockOp.Write);
        Task first = Task.Run(() => image.Write(1000, 3000, 1));
        held.WaitUntilHeld();

        TestThread second = TestThread.Start(() => image.Write(2000, 6000, 2));
        second.ShouldWait("both allocate the same cluster");
        Task other = Task.Run(() => image.Write(5L * ClusterSize, 4096, 3));
        await other.WaitAsync(Patience);
        second.ShouldNotHaveEnded("both allocate the same cluster");

        held.Release();
        await first.WaitAsync(Patience);
        second.ShouldEnd();
        byte[] expected = new byte[8000];
        Stamp.Bytes(1000, 3000, 1).CopyTo(expected, 1000);
        Stamp.Bytes(2000, 6000, 2).CopyTo(expected, 2000);
        image.ShouldRead(0, expected).ShouldRead(5L * ClusterSize, 4096, 3).ShouldPassCheck();
    }

    [Fact]
    public async Task A_write_under_way_never_lands_in_a_cluster_that_was_freed_and_used_again()
    {
        using TestImage image = TestImage.Create(3, ClusterSize, extendedL2: false);
        image.Write(0, ClusterSize, 1).Device.Flush();
        using HeldRequest held = image.Faults.Hold(BlockOp.Write);
        Task slow = Task.Run(() => image.Write(0, ClusterSize, 2));
        held.WaitUntilHeld();

        await Task.Run(() =>
        {
            image.Device.WriteZeroes(0, ClusterSize, mayUnmap: true);
            image.Device.Flush();
            for (int i = 1; i < 64; i++)
                image.Write((long)i * ClusterSize, ClusterSize, 3);
            image.Device.Flush();
        }).WaitAsync(Patience);
        held.Release();
        await slow.WaitAsync(Patience);

        for (int i = 1; i < 64; i++)
            image.ShouldRead((long)i * ClusterSize, ClusterSize, 3);
        image.Reopen();
        for (int i = 1; i < 64; i++)
            image.ShouldRead((long)i * ClusterSize, ClusterSize, 3);
        image.ShouldPassCheck();
    }

    [Fact]
    public async Task Flushes_that_arrive_together_share_one()
    {
        using TestImage image = TestImage.Create(3, 65536, extendedL2: false);
        image.Write(0, 65536, 1);
        image.Order.Clear();
        using HeldRequest held = image.Faults.Hold(BlockOp.Flush);
        Task first = Task.Run(image.Device.Flush);
        held.WaitUntilHeld();
        TestThread[] others = [.. Enumerable.Range(0, 8).Select(_ => TestThread.Start(image.Device.Flush))];
        Assert.All(others, static other => other.ShouldWait("a flush is under way"));
        held.Release();
        await first.WaitAsync(Patience);
        Assert.All(others, static other => other.ShouldEnd());
        Assert.InRange(image.Order.FlushCount, 2, 4);
    }

    [Fact]
    public void A_full_disk_reuses_what_was_freed_before_it_refuses()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 64 * 4096, ClusterSize = 4096 });
        image.Write(0, 32 * 4096, 1).Device.Flush();
        image.Device.WriteZeroes(0, 32 * 4096, mayUnmap: true);
        long end = image.Disk.Length;

        // Beyond what the file occupies now the disk is full.
        image.Faults.Fail(new FaultRule
        {
            Op = BlockOp.Write,
            Offset = end,
            Times = int.MaxValue,
            Error = BlockErrorKind.NoSpace,
        });
        image.Write(32 * 4096, 16 * 4096, 2);
        image.Faults.Heal();
        image.ShouldRead(32 * 4096, 16 * 4096, 2).ShouldReadZeroes(0, 32 * 4096).ShouldPassCheck();
    }
}
