// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Every operation that is served, as the kernel sends it.</summary>
public sealed class OperationTests : IDisposable
{
    private const int Size = 1 << 20;
    private const ulong Handle = 7;

    private readonly MemoryFileSystem _files;
    private readonly SessionFixture _session;

    public OperationTests()
    {
        _files = new MemoryFileSystem(Size);
        _session = SessionFixture.Initialised(_files);
    }

    public void Dispose()
    {
        _session.Dispose();
        _files.Dispose();
    }

    [Fact]
    public void LookupFindsTheFileAndNothingElse()
    {
        FakeReply found = _session.Send(FuseOpcode.Lookup, FakeKernel.Name("disk.raw"), SessionFixture.Root);
        FuseEntryOut entry = found.As<FuseEntryOut>();
        Assert.Equal(SessionFixture.File, entry.Node);
        Assert.Equal(3600ul, entry.EntryValid);
        Assert.Equal(3600ul, entry.AttrValid);
        Assert.Equal((ulong)Size, entry.Attr.Size);
        Assert.Equal(0x8180u, entry.Attr.Mode);

        FakeReply missing = _session.Send(FuseOpcode.Lookup, FakeKernel.Name("other"), SessionFixture.Root);
        Assert.Equal(-Errno.ENOENT, missing.Error);
        FakeReply tooLong = _session.Send(
            FuseOpcode.Lookup, FakeKernel.Name(new string('x', 256)), SessionFixture.Root);
        Assert.Equal(-Errno.ENAMETOOLONG, tooLong.Error);
    }

    [Fact]
    public void AttributesCountBlocksOf512Bytes()
    {
        Write(0, new byte[100]);
        FuseAttrOut reply = _session.GetAttributes().As<FuseAttrOut>();
        Assert.Equal(8ul, reply.Attr.Blocks);
        Assert.Equal(SessionFixture.File, reply.Attr.Inode);
        Assert.Equal(4096u, reply.Attr.BlockSize);
        Assert.Equal(3600ul, reply.AttrValid);
        Assert.Equal(-Errno.ENOENT, _session.GetAttributes(99).Error);
    }

    [Fact]
    public void SetAttributesPassesWhatIsValid()
    {
        FuseSetAttrIn change = new() { Valid = FuseSetAttrValid.Size, Size = Size };
        Assert.Equal(0, _session.Send(FuseOpcode.SetAttr, change).Error);
        change.Size = 1;
        Assert.Equal(-Errno.EPERM, _session.Send(FuseOpcode.SetAttr, change).Error);
        change.Size = ulong.MaxValue;
        Assert.Equal(-Errno.EFBIG, _session.Send(FuseOpcode.SetAttr, change).Error);

        change = new FuseSetAttrIn
        {
            Valid = FuseSetAttrValid.ModifyTime,
            ModifySeconds = -5,
            ModifyNanoseconds = 12,
            Size = 1,
        };
        FuseAttr attributes = _session.Send(FuseOpcode.SetAttr, change).As<FuseAttrOut>().Attr;
        Assert.Equal((-5L, 12u), (attributes.ModifySeconds, attributes.ModifyNanoseconds));

        change.Valid |= FuseSetAttrValid.ModifyNow;
        attributes = _session.Send(FuseOpcode.SetAttr, change).As<FuseAttrOut>().Attr;
        Assert.InRange(attributes.ModifySeconds, FuseTime.Now.Seconds - 60, FuseTime.Now.Seconds);
    }

    [Fact]
    public void OpenAnswersByTheWayOfOpening()
    {
        FuseOpenOut cached = _session.Send(FuseOpcode.Open, new FuseOpenIn { Flags = 2 }).As<FuseOpenOut>();
        Assert.Equal((Handle, FuseOpenFlags.KeepCache), (cached.Handle, cached.OpenFlags));

        uint direct = System.Runtime.InteropServices.RuntimeInformation.ProcessArchitecture
            == System.Runtime.InteropServices.Architecture.Arm64 ? 0x10000u : 0x4000u;
        FuseOpenOut parallel = _session.Send(FuseOpcode.Open, new FuseOpenIn { Flags = 2 | direct }).As<FuseOpenOut>();
        Assert.Equal(FuseOpenFlags.DirectIO | FuseOpenFlags.ParallelDirectWrites, parallel.OpenFlags);

        Assert.Equal(2, _files.OpenFiles);
        Assert.Equal(0, _session.Send(FuseOpcode.Release, new FuseReleaseIn { Handle = Handle }).Error);
        Assert.Equal(1, _files.OpenFiles);
        Assert.Equal(-Errno.EISDIR, _session.Send(FuseOpcode.Open, default(FuseOpenIn), SessionFixture.Root).Error);
    }

    [Theory]
    [InlineData(0, 1)]
    [InlineData(511, 4097)]
    [InlineData(0, Size)]
    public void WhatIsWrittenIsRead(int offset, int length)
    {
        byte[] data = new byte[length];
        new Random(length).NextBytes(data);
        FakeReply written = Write(offset, data);
        Assert.Equal((uint)length, written.As<FuseWriteOut>().Size);
        Assert.Equal(data, Read(offset, length).Payload);
    }

    [Fact]
    public void ReadingEndsAtTheEnd()
    {
        Assert.Equal(10, Read(Size - 10, 100).Payload.Length);
        Assert.Empty(Read(Size, 100).Payload);
        Assert.Empty(Read(long.MaxValue - 200, 100).Payload);
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(2, 0)]
    [InlineData(0x1000, 1)]
    [InlineData(0x101000, 1)]
    public void WritesThatMustBeDurableSaySo(uint flags, int count)
    {
        FuseWriteIn write = new() { Handle = Handle, Size = 512, Flags = flags };
        Assert.Equal(512u, _session.Send(FuseOpcode.Write, write, payload: new byte[512]).As<FuseWriteOut>().Size);
        Assert.Equal(count, _files.SynchronousWrites);
    }

    [Fact]
    public void WritingEndsAtTheEnd()
    {
        Assert.Equal(10u, Write(Size - 10, new byte[100]).As<FuseWriteOut>().Size);
        Assert.Equal(-Errno.ENOSPC, Write(Size, new byte[100]).Error);
    }

    [Fact]
    public void FsyncReachesTheFileSystemAndFlushDoesNot()
    {
        Assert.Equal(0, _session.Send(FuseOpcode.Fsync, new FuseFsyncIn { Handle = Handle }).Error);
        Assert.Equal(1, _files.Syncs);
        Assert.Equal(-Errno.ENOSYS, _session.Send(FuseOpcode.Flush, default(FuseFlushIn)).Error);
    }

    [Fact]
    public void AllocationAndSeekingSeeHoles()
    {
        Write(0, new byte[16384]);
        Assert.Equal(16384, Seek(0, FuseSeekKind.Hole));
        FuseFallocateIn punch = new() { Offset = 4096, Length = 4096, Mode = 3 };
        FakeReply punched = _session.Send(FuseOpcode.Fallocate, punch);
        Assert.Equal(0, punched.Error);
        Assert.Empty(punched.Payload);
        Assert.Equal(4096, Seek(0, FuseSeekKind.Hole));
        Assert.Equal(8192, Seek(5000, FuseSeekKind.Data));
        Assert.Equal(-Errno.ENXIO, Seek(Size, FuseSeekKind.Hole));

        punch.Length = 0;
        Assert.Equal(-Errno.EINVAL, _session.Send(FuseOpcode.Fallocate, punch).Error);
        punch.Length = long.MaxValue;
        Assert.Equal(-Errno.EFBIG, _session.Send(FuseOpcode.Fallocate, punch).Error);
        Assert.Equal(-Errno.EINVAL, Seek(0, (FuseSeekKind)0));
    }

    [Theory]
    [InlineData(FuseOpcode.CopyFileRange)]
    [InlineData(FuseOpcode.CopyFileRange64)]
    internal void RangesAreCopied(FuseOpcode opcode)
    {
        byte[] data = [.. Enumerable.Range(0, 5000).Select(static i => (byte)(i * 7))];
        Write(100, data);
        Assert.Equal(5000, Copy(opcode, 100, 20_001, 5000));
        Assert.Equal(data, Read(20_001, 5000).Payload);

        // To the end, and no further.
        Assert.Equal(10, Copy(opcode, 100, Size - 10, 5000));
        Assert.Equal(data[..10], Read(Size - 10, 10).Payload);
        Assert.Equal(0, Copy(opcode, Size, 0, 10));
        Assert.Equal(-Errno.EINVAL, Copy(opcode, 100, 200, 101));
        Assert.Equal(100, Copy(opcode, 100, 200, 100));
        Assert.Equal(0, Copy(opcode, 0, 0, 0));
    }

    [Fact]
    public void CopiesOfImpossibleRangesAreInvalid()
    {
        FuseCopyFileRangeIn copy = new() { Handle = Handle, ToHandle = Handle, ToNode = SessionFixture.File };
        copy.Offset = ulong.MaxValue;
        copy.Length = 1;
        Assert.Equal(-Errno.EINVAL, _session.Send(FuseOpcode.CopyFileRange64, copy).Error);
        copy.Offset = 0;
        copy.ToOffset = long.MaxValue;
        Assert.Equal(-Errno.EINVAL, _session.Send(FuseOpcode.CopyFileRange, copy).Error);
        copy.ToOffset = 0;
        copy.Flags = 1;
        Assert.Equal(-Errno.EINVAL, _session.Send(FuseOpcode.CopyFileRange64, copy).Error);
    }

    [Fact]
    public void StatFsHasUnitAndNameLength()
    {
        FuseStatFsOut reply = _session.Send(FuseOpcode.StatFs, [], SessionFixture.Root).As<FuseStatFsOut>();
        Assert.Equal((4096u, 4096u, 255u), (reply.BlockSize, reply.FragmentSize, reply.NameLength));
        Assert.Equal(Size / 4096ul, reply.Blocks);
    }

    [Fact]
    public void DirectoryIsReadInPieces()
    {
        FakeReply opened = _session.Send(FuseOpcode.OpenDir, default(FuseOpenIn), SessionFixture.Root);
        Assert.Equal(0ul, opened.As<FuseOpenOut>().Handle);

        List<string> names = [];
        ulong offset = 0;
        while (true)
        {
            // Room for one entry at a time.
            FuseReadIn read = new() { Offset = offset, Size = 40 };
            byte[] entries = _session.Send(FuseOpcode.ReadDir, read, SessionFixture.Root).Payload;
            if (entries.Length == 0)
                break;
            Assert.Equal(0, entries.Length % 8);
            offset = BitConverter.ToUInt64(entries, 8);
            names.Add(Encoding.UTF8.GetString(entries, 24, BitConverter.ToInt32(entries, 16)));
            Assert.Equal(names[^1] == "disk.raw" ? 8u : 4u, BitConverter.ToUInt32(entries, 20));
        }

        Assert.Equal([".", "..", "disk.raw"], names);
        Assert.Equal(0, _session.Send(FuseOpcode.ReleaseDir, default(FuseReleaseIn), SessionFixture.Root).Error);
    }

    [Fact]
    public void ExtendedAttributesAreMeasuredThenRead()
    {
        byte[] name = FakeKernel.Name("user.test");
        FakeReply size = _session.Send(FuseOpcode.GetXattr, default(FuseGetXattrIn), payload: name);
        Assert.Equal(5u, size.As<FuseGetXattrOut>().Size);
        FakeReply value = _session.Send(FuseOpcode.GetXattr, new FuseGetXattrIn { Size = 5 }, payload: name);
        Assert.Equal("value"u8.ToArray(), value.Payload);
        FakeReply small = _session.Send(FuseOpcode.GetXattr, new FuseGetXattrIn { Size = 4 }, payload: name);
        Assert.Equal(-Errno.ERANGE, small.Error);
        FakeReply other = _session.Send(
            FuseOpcode.GetXattr, new FuseGetXattrIn { Size = 99 }, payload: FakeKernel.Name("security.capability"));
        Assert.Equal(-Errno.ENODATA, other.Error);

        FakeReply list = _session.Send(FuseOpcode.ListXattr, new FuseGetXattrIn { Size = 100 });
        Assert.Equal("user.test\0"u8.ToArray(), list.Payload);
    }

    [Theory]
    [InlineData(FuseOpcode.Ioctl, Errno.ENOTTY)]
    [InlineData(FuseOpcode.Create, Errno.EPERM)]
    [InlineData(FuseOpcode.Unlink, Errno.EPERM)]
    [InlineData(FuseOpcode.ReadLink, Errno.EINVAL)]
    [InlineData(FuseOpcode.Access, Errno.ENOSYS)]
    [InlineData(FuseOpcode.Statx, Errno.ENOSYS)]
    [InlineData(FuseOpcode.SetXattr, Errno.ENOSYS)]
    [InlineData((FuseOpcode)54, Errno.ENOSYS)]
    [InlineData((FuseOpcode)uint.MaxValue, Errno.ENOSYS)]
    internal void OtherOperationsAreRefused(FuseOpcode opcode, int errno) =>
        Assert.Equal(-errno, _session.Send(opcode, new byte[64]).Error);

    [Fact]
    public void DestroyIsAnswered() => Assert.Equal(0, _session.Send(FuseOpcode.Destroy, []).Error);

    [Fact]
    public void ForgettingAndInterruptsAreNotAnswered()
    {
        int before = _session.Kernel.Received;
        _session.Kernel.Post((uint)FuseOpcode.Forget, SessionFixture.File, new byte[8]);
        _session.Kernel.Post((uint)FuseOpcode.BatchForget, 0, new byte[8 + 16]);
        _session.Kernel.Post((uint)FuseOpcode.Interrupt, 0, new byte[8]);
        _session.Kernel.Post((uint)FuseOpcode.Forget, SessionFixture.File, []);
        Assert.Equal(0, _session.GetAttributes().Error);
        Eventually.Holds(() => _session.Kernel.Received == before + 5);
        Assert.Empty(_session.Kernel.Complaints);
    }

    private FakeReply Write(long offset, byte[] data) => _session.Send(
        FuseOpcode.Write,
        new FuseWriteIn { Handle = Handle, Offset = (ulong)offset, Size = (uint)data.Length },
        payload: data);

    private FakeReply Read(long offset, int length) => _session.Send(
        FuseOpcode.Read, new FuseReadIn { Handle = Handle, Offset = (ulong)offset, Size = (uint)length });

    private long Copy(FuseOpcode opcode, long from, long to, long length)
    {
        FakeReply reply = _session.Send(opcode, new FuseCopyFileRangeIn
        {
            Handle = Handle,
            Offset = (ulong)from,
            ToNode = SessionFixture.File,
            ToHandle = Handle,
            ToOffset = (ulong)to,
            Length = (ulong)length,
        });
        if (reply.Error < 0)
            return reply.Error;
        return opcode == FuseOpcode.CopyFileRange
            ? reply.As<FuseWriteOut>().Size
            : (long)reply.As<FuseCopyFileRangeOut>().BytesCopied;
    }

    private long Seek(long offset, FuseSeekKind kind)
    {
        FuseLseekIn seek = new() { Offset = (ulong)offset, Whence = (uint)kind };
        FakeReply reply = _session.Send(FuseOpcode.Lseek, seek);
        return reply.Error < 0 ? reply.Error : (long)reply.As<FuseLseekOut>().Offset;
    }
}
