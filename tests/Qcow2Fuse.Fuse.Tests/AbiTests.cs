// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Uring;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Sizes and offsets of the protocol's structs, as linux/fuse.h of version 7.45 gives them.</summary>
public sealed class AbiTests
{
    [Fact]
    public void SizesAreTheKernels()
    {
        (string Name, int Expected, int Actual)[] sizes =
        [
            Size<FuseInHeader>(40), Size<FuseOutHeader>(16), Size<FuseInitIn>(64), Size<FuseInitOut>(64),
            Size<FuseAttr>(88), Size<FuseEntryOut>(128), Size<FuseAttrOut>(104), Size<FuseGetAttrIn>(16),
            Size<FuseSetAttrIn>(88), Size<FuseGetXattrIn>(8), Size<FuseGetXattrOut>(8), Size<FuseStatFsOut>(80),
            Size<FuseOpenIn>(8), Size<FuseOpenOut>(16), Size<FuseReleaseIn>(24), Size<FuseFlushIn>(24),
            Size<FuseReadIn>(40), Size<FuseWriteIn>(40), Size<FuseWriteOut>(8), Size<FuseFsyncIn>(16),
            Size<FuseFallocateIn>(32), Size<FuseLseekIn>(24), Size<FuseLseekOut>(8),
            Size<FuseCopyFileRangeIn>(56), Size<FuseCopyFileRangeOut>(8),
            Size<FuseRingHeaders>(288), Size<FuseRingVector>(16), Size<UringCommand>(128),
        ];
        Assert.All(sizes, size => Assert.True(size.Expected == size.Actual, $"{size.Name}: {size.Actual}"));
        Assert.Equal(FuseAbi.InHeaderSize, Marshal.SizeOf<FuseInHeader>());
        Assert.Equal(FuseAbi.OutHeaderSize, Marshal.SizeOf<FuseOutHeader>());
        Assert.Equal(FuseAbi.WriteInSize, Marshal.SizeOf<FuseWriteIn>());
    }

    [Theory]
    [InlineData(typeof(FuseInHeader), nameof(FuseInHeader.Unique), 8)]
    [InlineData(typeof(FuseInHeader), nameof(FuseInHeader.Node), 16)]
    [InlineData(typeof(FuseInHeader), nameof(FuseInHeader.Pid), 32)]
    [InlineData(typeof(FuseInHeader), nameof(FuseInHeader.TotalExtensionLength), 36)]
    [InlineData(typeof(FuseInitIn), nameof(FuseInitIn.Flags2), 16)]
    [InlineData(typeof(FuseInitOut), nameof(FuseInitOut.MaxBackground), 16)]
    [InlineData(typeof(FuseInitOut), nameof(FuseInitOut.MaxWrite), 20)]
    [InlineData(typeof(FuseInitOut), nameof(FuseInitOut.MaxPages), 28)]
    [InlineData(typeof(FuseInitOut), nameof(FuseInitOut.Flags2), 32)]
    [InlineData(typeof(FuseInitOut), nameof(FuseInitOut.MaxStackDepth), 36)]
    [InlineData(typeof(FuseInitOut), nameof(FuseInitOut.RequestTimeout), 40)]
    [InlineData(typeof(FuseAttr), nameof(FuseAttr.AccessNanoseconds), 48)]
    [InlineData(typeof(FuseAttr), nameof(FuseAttr.Mode), 60)]
    [InlineData(typeof(FuseAttr), nameof(FuseAttr.BlockSize), 80)]
    [InlineData(typeof(FuseEntryOut), nameof(FuseEntryOut.Attr), 40)]
    [InlineData(typeof(FuseAttrOut), nameof(FuseAttrOut.Attr), 16)]
    [InlineData(typeof(FuseSetAttrIn), nameof(FuseSetAttrIn.Size), 16)]
    [InlineData(typeof(FuseSetAttrIn), nameof(FuseSetAttrIn.AccessSeconds), 32)]
    [InlineData(typeof(FuseSetAttrIn), nameof(FuseSetAttrIn.Mode), 68)]
    [InlineData(typeof(FuseSetAttrIn), nameof(FuseSetAttrIn.Uid), 76)]
    [InlineData(typeof(FuseReadIn), nameof(FuseReadIn.Size), 16)]
    [InlineData(typeof(FuseWriteIn), nameof(FuseWriteIn.Size), 16)]
    [InlineData(typeof(FuseOpenOut), nameof(FuseOpenOut.OpenFlags), 8)]
    [InlineData(typeof(FuseFallocateIn), nameof(FuseFallocateIn.Mode), 24)]
    [InlineData(typeof(FuseLseekIn), nameof(FuseLseekIn.Whence), 16)]
    [InlineData(typeof(FuseCopyFileRangeIn), nameof(FuseCopyFileRangeIn.ToNode), 16)]
    [InlineData(typeof(FuseCopyFileRangeIn), nameof(FuseCopyFileRangeIn.Length), 40)]
    [InlineData(typeof(FuseStatFsOut), nameof(FuseStatFsOut.BlockSize), 40)]
    public void OffsetsAreTheKernels(Type type, string field, int offset) =>
        Assert.Equal(offset, (int)Marshal.OffsetOf(type, field));

    [Fact]
    public unsafe void BuffersPutDataOnPageBoundaries()
    {
        using FuseSlot slot = new(1 << 20, descriptor: 0);
        Assert.Equal(0, (long)(slot.Request + FuseAbi.InHeaderSize + FuseAbi.WriteInSize) % 4096);
        Assert.Equal(0, (long)(slot.Reply + FuseAbi.OutHeaderSize) % 4096);
        Assert.True(slot.RequestCapacity >= FuseAbi.MinReadBuffer);
        Assert.Equal((1 << 20) + 80, slot.RequestCapacity);

        // In one buffer: what follows both headers is the same memory.
        Assert.True(slot.Reply + FuseAbi.OutHeaderSize == slot.Request + slot.RequestCapacity - slot.PayloadCapacity);
    }

    private static (string Name, int Expected, int Actual) Size<T>(int expected)
        where T : unmanaged =>
        (typeof(T).Name, expected, Marshal.SizeOf<T>());
}
