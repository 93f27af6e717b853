// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Requests that the caller does himself, beside all that goes on: clusters stay where they are.</summary>
public sealed class PlainRunOrderTests : PlainRunFixture
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_discarded_cluster_is_not_used_again_before_the_transfer_has_ended(bool isWrite)
    {
        using Qcow2Device device = Create(Standard);
        device.Write(0, Stamp.Bytes(0, Cluster, 1));
        Assert.True(device.TryBeginPlain(0, 4096, isWrite, out PlainRun run));
        device.Discard(0, Cluster);
        for (int i = 1; i < 8; i++)
        {
            device.Flush();
            device.Write(i * Cluster, Stamp.Bytes(i * Cluster, Cluster, 2));
            Assert.NotEqual(run.Offset, device.GetExtent(i * Cluster, 1).HostOffset);
        }

        device.EndPlain(run);
        device.Flush();
        device.Flush();
        device.Write(20 * Cluster, Stamp.Bytes(20 * Cluster, Cluster, 2));
        Assert.Equal(run.Offset, device.GetExtent(20 * Cluster, 1).HostOffset);
    }

    [Fact]
    public void A_snapshot_waits_for_transfers_and_lets_no_write_begin()
    {
        using Qcow2Device device = Create(Standard);
        device.Write(0, Stamp.Bytes(0, 2 * Cluster, 1));
        Assert.True(device.TryBeginPlain(0, Cluster, isWrite: true, out PlainRun run));
        TestThread snapshot = TestThread.Start(() => device.CreateSnapshot("s"));
        Eventually.Holds(() => !Begins(device, Cluster, 4096, isWrite: true));
        snapshot.ShouldWait("a transfer is under way");
        byte[] late = Stamp.Bytes(0, Cluster, 7);
        PlainAccess.Move(run, late, destination: []);
        device.EndPlain(run);
        snapshot.ShouldEnd();
        using BlockDevice view = device.OpenSnapshot("s");
        byte[] seen = new byte[Cluster];
        view.Read(0, seen);
        Assert.Equal(late, seen);
    }

    [Fact]
    public void An_allocation_under_way_keeps_overwrites_away_where_it_writes()
    {
        using (FileDevice made = FileDevice.Create(ImagePath))
            Qcow2Creator.Create(made, Standard with { ExtendedL2 = true });
        HoldingDevice file = new(FileDevice.Open(ImagePath));
        using Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments());
        device.Write(0, Stamp.Bytes(0, 4096, 1));
        Assert.True(Begins(device, 0, 2048, isWrite: true));
        using ManualResetEventSlim gate = new();
        using ManualResetEventSlim reached = new();
        file.BeforeWrite = () =>
        {
            reached.Set();
            gate.Wait(Patience);
        };
        Task writer = Task.Run(() => device.Write(2048, Stamp.Bytes(2048, 4096, 2)));
        Assert.True(reached.Wait(Patience));
        Assert.True(Begins(device, 0, 2048, isWrite: true));
        Assert.False(Begins(device, 2048, 2048, isWrite: true));
        Assert.True(Begins(device, 2048, 2048, isWrite: false));
        file.BeforeWrite = null;
        gate.Set();
        Assert.True(writer.Wait(Patience));
        Assert.True(Begins(device, 2048, 4096, isWrite: true));
    }

    [Fact]
    public void After_a_failed_flush_nothing_is_written()
    {
        using (FileDevice made = FileDevice.Create(ImagePath))
            Qcow2Creator.Create(made, Standard);
        HoldingDevice file = new(FileDevice.Open(ImagePath));
        using Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments());
        device.Write(0, Stamp.Bytes(0, Cluster, 1));
        file.FailsFlush = true;
        Assert.Throws<BlockException>(device.Flush);
        Assert.True(Begins(device, 0, 4096, isWrite: false));
        Assert.False(Begins(device, 0, 4096, isWrite: true));
    }

    /// <summary>An entry that is no good is left to the request that comes the other way and says what is wrong.
    /// </summary>
    [Fact]
    public void Nothing_is_allocated()
    {
        using Qcow2Device device = Create(Standard);
        device.Write(0, Stamp.Bytes(0, 4 * Cluster, 1));
        Rounds(device, 1000);
        Assert.Equal(0, ManagedAllocation.Of(() => Rounds(device, 1000)));
    }

    private static void Rounds(Qcow2Device device, int rounds)
    {
        for (int i = 0; i < rounds; i++)
        {
            bool begun = device.TryBeginPlain(4096L * (i % 64), 4096, isWrite: i % 2 == 0, out PlainRun run);
            if (!begun)
                throw new InvalidOperationException("refused");
            device.EndPlain(run);
        }
    }

    /// <summary>A file whose writes wait for a test, and whose flushes fail when it says so.</summary>
    private sealed class HoldingDevice(FileDevice file) : PassThroughDevice(file)
    {
        public Action? BeforeWrite { get; set; }

        public bool FailsFlush { get; set; }

        public override void Write(long offset, ReadOnlySpan<byte> source)
        {
            BeforeWrite?.Invoke();
            base.Write(offset, source);
        }

        public override void Flush()
        {
            if (FailsFlush)
                throw new BlockException(BlockErrorKind.Io, "a flush that fails");
            base.Flush();
        }

        public override bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run) =>
            Child.TryBeginPlain(offset, length, isWrite, out run);

        public override void EndPlain(in PlainRun run) => Child.EndPlain(run);
    }
}
