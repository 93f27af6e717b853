// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>
/// However wrong refcounts and L2 entries are, metadata is not overwritten: the write fails, the image is marked
/// corrupt, and no other byte of it changes.
/// </summary>
public sealed class OverlapGuardTests
{
    private const int Cluster = 65536;

    /// <summary>The metadata that a wrong entry may hit, by where the image says it lies.</summary>
    public enum Target
    {
        Header,
        L1Table,
        L2Table,
        RefcountTable,
        RefcountBlock,
    }

    [Theory]
    [InlineData(Target.L1Table)]
    [InlineData(Target.L2Table)]
    [InlineData(Target.RefcountTable)]
    [InlineData(Target.RefcountBlock)]
    public void A_mapping_to_metadata_is_not_written_through(Target target)
    {
        using MemoryDevice image = NewImage();
        WriteU64(image, L2Offset(image), Place(image, target) | L2Entry.CopiedFlag);
        ShouldRefuse(image, device => device.Write(100, Stamp.Bytes(0, 100, 2)));
    }

    [Theory]
    [InlineData(Target.Header)]
    [InlineData(Target.L1Table)]
    [InlineData(Target.L2Table)]
    [InlineData(Target.RefcountTable)]
    [InlineData(Target.RefcountBlock)]
    public void Metadata_counted_as_free_is_not_handed_out(Target target)
    {
        using MemoryDevice image = NewImage();
        int cluster = (int)(Place(image, target) / Cluster);
        image.Write((long)Place(image, Target.RefcountBlock) + (cluster * 2), new byte[2]);

        // Writes until the first free cluster of all has been asked for.
        ShouldRefuse(image, device =>
        {
            for (int i = 1; i < 20; i++)
                device.Write(i * Cluster, Stamp.Bytes(0, 100, 2));
        });
    }

    [Theory]
    [InlineData(Target.Header)]
    [InlineData(Target.L1Table)]
    [InlineData(Target.RefcountTable)]
    [InlineData(Target.RefcountBlock)]
    public void An_L1_entry_that_points_at_other_metadata_is_found_before_the_first_write(Target target)
    {
        using MemoryDevice image = NewImage();
        long second = (long)Place(image, Target.L1Table) + 8;
        WriteU64(image, second, target == Target.Header ? 0 : Place(image, target) | L1Entry.Copied);
        if (target == Target.Header)
        {
            using Qcow2Device device = Qcow2Device.Open(new Unowned(image), new FormatOpenArguments());
            device.Write(1L << 29, Stamp.Bytes(0, 100, 2));
            return;
        }

        ShouldRefuse(image, device => device.Write(1L << 29, Stamp.Bytes(0, 100, 2)));
    }

    /// <summary>A refcount block becomes metadata when it is counted, not when a request for it fails.</summary>
    [Theory]
    [InlineData(BlockOp.WriteZeroes)]
    [InlineData(BlockOp.Read)]
    public void A_refcount_block_whose_creation_failed_can_be_created_again(BlockOp op)
    {
        const int Clusters = 300;
        int failed = 0;
        for (int nth = 1; ; nth++)
        {
            using TestImage image = TestImage.Create(new Qcow2CreateOptions
            {
                Size = Clusters * 512,
                ClusterSize = 512,
                RefcountBits = 64,
            });
            image.Faults.Fail(new FaultRule { Op = op, Nth = nth });
            for (int i = 0; i < Clusters; i++)
            {
                try
                {
                    image.Write(i * 512, 512, tag: 1);
                }
                catch (BlockException failure)
                {
                    Assert.Equal(BlockErrorKind.Io, failure.Kind);
                    image.Write(i * 512, 512, tag: 1);
                    failed++;
                }
            }

            image.Faults.Heal();
            image.ShouldRead(0, Clusters * 512, tag: 1).ShouldPassCheck();
            if (image.Faults.FailureCount == 0)
                break;
        }

        Assert.True(failed > 2);
    }

    private static MemoryDevice NewImage()
    {
        MemoryDevice image = new(name: "image");
        Qcow2Creator.Create(image, new Qcow2CreateOptions { Size = 1L << 30, ClusterSize = Cluster });
        using Qcow2Device device = Qcow2Device.Open(new Unowned(image), new FormatOpenArguments());
        device.Write(0, Stamp.Bytes(0, 1000, 1));
        return image;
    }

    private static void ShouldRefuse(MemoryDevice image, Action<Qcow2Device> write)
    {
        byte[] before = Content(image);
        using (Qcow2Device device = Qcow2Device.Open(new Unowned(image), new FormatOpenArguments()))
        {
            BlockException refused = Assert.Throws<BlockException>(() => write(device));
            Assert.Equal(BlockErrorKind.Corrupt, refused.Kind);
            Assert.Equal(BlockErrorKind.Io, Assert.Throws<BlockException>(() => write(device)).Kind);
        }

        byte[] after = Content(image);
        Assert.Equal(FeatureBits.Corrupt, BinaryPrimitives.ReadUInt64BigEndian(after.AsSpan(72)));
        after[79] = 0;
        Assert.True(before.AsSpan().SequenceEqual(after), "more than the corrupt bit was changed");
    }

    private static byte[] Content(MemoryDevice image)
    {
        byte[] content = new byte[image.Length];
        image.Read(0, content);
        return content;
    }

    private static ulong Place(MemoryDevice image, Target target) => PlaceIn(Content(image), target);

    private static ulong PlaceIn(ReadOnlySpan<byte> image, Target target) => target switch
    {
        Target.Header => 0,
        Target.L1Table => U64(image, 40),
        Target.L2Table => U64(image, (int)U64(image, 40)) & L1Entry.OffsetMask,
        Target.RefcountTable => U64(image, 48),
        _ => U64(image, (int)U64(image, 48)),
    };

    private static long L2Offset(MemoryDevice image) => (long)Place(image, Target.L2Table);

    private static ulong U64(ReadOnlySpan<byte> bytes, int offset) =>
        BinaryPrimitives.ReadUInt64BigEndian(bytes[offset..]);

    private static void WriteU64(MemoryDevice image, long offset, ulong value)
    {
        byte[] bytes = new byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(bytes, value);
        image.Write(offset, bytes);
    }

    /// <summary>Lets a device be opened and closed on the same memory several times.</summary>
    private sealed class Unowned(BlockDevice child) : PassThroughDevice(child);
}
