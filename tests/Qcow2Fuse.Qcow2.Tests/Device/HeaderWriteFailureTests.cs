// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>
/// A write of the header that fails may have reached the file: nothing is done that is right for the old header only
/// while the file may have the new one.
/// </summary>
public sealed class HeaderWriteFailureTests
{
    private const int Size = 4 << 20;

    public static TheoryData<string, int> Changes() => new()
    {
        { "grow", 512 },
        { "shrink", 512 },
        { "refcount table", 512 },
        { "snapshot", 512 },
        { "grow", 65536 },
        { "shrink", 65536 },
        { "snapshot", 65536 },
    };

    [Theory]
    [MemberData(nameof(Changes))]
    public void The_old_header_is_put_back_before_anything_relies_on_it(string change, int clusterSize)
    {
        using TestImage image = Create(clusterSize);
        FailHeaderWrites(image, times: 1);
        Assert.Equal(BlockErrorKind.Io, Assert.Throws<BlockException>(() => Change(image, change)).Kind);
        Assert.Equal(1, image.Faults.FailureCount);
        image.Faults.Heal();
        Assert.Equal(Size, image.Device.Length);
        Assert.Equal(Size, image.Plain.Size);

        image.Write(2 << 20, 2 << 20, 9).Device.Flush();

        // What a power cut would leave now holds all that was flushed.
        PlainReader plain = image.Plain;
        Assert.Empty(plain.Check().Errors);
        byte[] flushed = new byte[Size];
        plain.Read(0, flushed);
        Assert.True(image.Read(0, Size).AsSpan().SequenceEqual(flushed), "flushed bytes are lost");
        image.ShouldRead(0, 1 << 20, 7).ShouldRead(2 << 20, 2 << 20, 9).ShouldPassCheck();
        image.Reopen().ShouldPassCheck();
        Assert.Equal(Size, image.Device.Length);
        image.ShouldRead(0, 1 << 20, 7).ShouldRead(2 << 20, 2 << 20, 9);
    }

    [Theory]
    [MemberData(nameof(Changes))]
    public void Where_it_cannot_be_put_back_nothing_is_written_any_more(string change, int clusterSize)
    {
        using TestImage image = Create(clusterSize);
        FailHeaderWrites(image, times: int.MaxValue);
        Assert.Equal(BlockErrorKind.Io, Assert.Throws<BlockException>(() => Change(image, change)).Kind);
        image.Faults.Heal();
        image.Order.Clear();
        for (int i = 0; i < 3; i++)
        {
            Assert.Throws<BlockException>(() => image.Write(3 << 20, 65536, 9));
            Assert.Throws<BlockException>(image.Device.Flush);
        }

        image.Close();
        Assert.Empty(image.Order.Requests);
        PlainReader plain = image.Plain;
        Assert.Empty(plain.Check(allowStaleFlags: true).Errors);
        byte[] flushed = new byte[512 << 10];
        plain.Read(0, flushed);
        Assert.True(Stamp.Bytes(0, flushed.Length, 7).AsSpan().SequenceEqual(flushed), "flushed bytes are lost");
    }

    private static TestImage Create(int clusterSize)
    {
        TestImage image = TestImage.Create(new Qcow2CreateOptions
        {
            Size = 1 << 20,
            ClusterSize = clusterSize,
            RefcountBits = clusterSize == 512 ? 64 : 16,
        });
        image.Write(0, 1 << 20, 7).Device.Resize(Size);
        image.Device.Flush();
        return image;
    }

    /// <summary>The writes reach the file, and are failures for who made them.</summary>
    private static void FailHeaderWrites(TestImage image, int times) => image.Faults.Fail(new FaultRule
    {
        Op = BlockOp.Write,
        Offset = 0,
        Length = 512,
        TornBytes = int.MaxValue,
        Times = times,
    });

    private static void Change(TestImage image, string change)
    {
        switch (change)
        {
            case "grow":
                image.Device.Resize(64 << 20);
                break;
            case "shrink":
                image.Device.Resize(512 << 10);
                break;
            case "snapshot":
                ((Qcow2Device)image.Device).CreateSnapshot("s");
                break;
            default:
                // Made for a smaller disk, the table has to move on the way.
                for (int at = 1 << 20; at < Size; at += 65536)
                    image.Write(at, 65536, 8);
                break;
        }
    }
}
