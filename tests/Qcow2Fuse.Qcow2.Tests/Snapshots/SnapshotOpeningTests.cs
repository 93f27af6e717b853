// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Snapshots;

/// <summary>Snapshots that are opened while guests go on.</summary>
public sealed class SnapshotOpeningTests
{
    private const int Cluster = 4096;
    private const int SnapshotCountField = 60;
    private const int TableField = 64;

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Guests_go_on_while_the_tables_of_a_snapshot_are_read(bool isSnapshotTable)
    {
        using TestImage image = TestImage.Create(version: 3, Cluster, extendedL2: false);
        image.Write(0, 4 * Cluster, tag: 1);
        Qcow2(image).CreateSnapshot("one");
        image.Reopen();
        Assert.Equal(1UL, image.PeekBigEndian(SnapshotCountField, 4));
        long table = (long)image.PeekBigEndian(TableField, 8);
        long held = isSnapshotTable ? table : (long)image.PeekBigEndian(table, 8);
        using HeldRequest read = image.Faults.Hold(BlockOp.Read, offset: held, length: 8);
        BlockDevice? opened = null;
        TestThread opening = TestThread.Start(() => opened = Qcow2(image).OpenSnapshot("one"));
        read.WaitUntilHeld();
        TestThread guest = TestThread.Start(() =>
        {
            image.Write(0, 2 * Cluster, tag: 2);
            image.Device.Flush();
            image.ShouldRead(0, 2 * Cluster, tag: 2).ShouldRead(2 * Cluster, 2 * Cluster, tag: 1);
        });
        guest.ShouldEnd();
        opening.ShouldNotHaveEnded("it was opened without its tables");
        read.Release();
        opening.ShouldEnd();
        using (opened)
        {
            byte[] content = new byte[4 * Cluster];
            opened!.Read(0, content);
            Assert.Equal(Stamp.Bytes(0, 4 * Cluster, 1), content);

            // While it is read it stays.
            Assert.Equal(
                BlockErrorKind.Locked,
                Assert.Throws<BlockException>(() => Qcow2(image).DeleteSnapshot("one")).Kind);
        }

        Qcow2(image).DeleteSnapshot("one");
        image.Reopen().ShouldPassCheck();
    }

    [Fact]
    public void A_snapshot_that_cannot_be_opened_can_be_deleted()
    {
        using TestImage image = TestImage.Create(version: 3, Cluster, extendedL2: false);
        image.Write(0, 4 * Cluster, tag: 1);
        Qcow2(image).CreateSnapshot("one");
        image.Reopen();
        long l1 = (long)image.PeekBigEndian((long)image.PeekBigEndian(TableField, 8), 8);
        image.Faults.Fail(new FaultRule { Op = BlockOp.Read, Offset = l1, Length = 8 });
        Assert.Throws<BlockException>(() => Qcow2(image).OpenSnapshot("one"));
        Qcow2(image).DeleteSnapshot("one");
        Assert.Empty(Qcow2(image).Snapshots);
        image.Reopen().ShouldPassCheck();
    }

    private static Qcow2Device Qcow2(TestImage image) => (Qcow2Device)image.Device;
}
