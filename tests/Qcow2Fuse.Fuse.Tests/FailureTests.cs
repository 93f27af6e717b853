// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Linux.Libc;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Failures of the file system become error numbers, and the session goes on.</summary>
public sealed class FailureTests
{
    private readonly FailingFileSystem _files = new();

    [Fact]
    public void ExceptionsAreEIOUnlessMapped()
    {
        using SessionFixture session = SessionFixture.Initialised(_files);
        _files.Answer = () => throw new InvalidOperationException("broken");
        Assert.Equal(-Errno.EIO, session.Send(FuseOpcode.Read, new FuseReadIn { Size = 10 }).Error);
        Assert.Equal(-Errno.EIO, session.Send(FuseOpcode.Fsync, default(FuseFsyncIn)).Error);
        _files.Answer = () => 0;
        Assert.Equal(0, session.GetAttributes().Error);
    }

    [Fact]
    public void ExceptionsAreMappedAndTold()
    {
        ConcurrentQueue<FuseFailure> told = new();
        using SessionFixture session = SessionFixture.Initialised(_files, new FuseServerOptions
        {
            Workers = 2,
            MapException = error => error is IOException ? Errno.ENOSPC : Errno.EROFS,
            OnFailure = told.Enqueue,
        });
        _files.Answer = () => throw new IOException("full");
        Assert.Equal(-Errno.ENOSPC, session.Send(FuseOpcode.Fsync, default(FuseFsyncIn)).Error);
        FuseFailure failure = Assert.Single(told);
        Assert.Equal(
            ("Fsync", SessionFixture.File, Errno.ENOSPC), (failure.Operation, failure.Node, failure.Errno));
        Assert.Equal("full", failure.Exception.Message);
        _files.Answer = () => throw new InvalidOperationException();
        Assert.Equal(-Errno.EROFS, session.Send(FuseOpcode.StatFs, []).Error);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-5)]
    [InlineData(512)]
    public void MappedNumbersTheKernelWouldNotTakeAreEIO(int errno)
    {
        using SessionFixture session = SessionFixture.Initialised(
            _files, new FuseServerOptions { Workers = 1, MapException = _ => errno });
        _files.Answer = () => throw new IOException();
        Assert.Equal(-Errno.EIO, session.GetAttributes().Error);
    }

    [Fact]
    public void FailingMappersAndLogsDoNotCostTheReply()
    {
        using SessionFixture session = SessionFixture.Initialised(_files, new FuseServerOptions
        {
            Workers = 1,
            MapException = _ => Errno.ENOSPC,
            OnFailure = _ => throw new IOException("the log is full too"),
        });
        _files.Answer = () => throw new IOException();
        Assert.Equal(-Errno.ENOSPC, session.GetAttributes().Error);
        _files.Answer = () => 0;
        Assert.Equal(0, session.GetAttributes().Error);
    }

    [Theory]
    [InlineData(-512)]
    [InlineData(int.MinValue)]
    public void ErrorsOutOfRangeAreEIO(int answer)
    {
        using SessionFixture session = SessionFixture.Initialised(_files);
        _files.Answer = () => answer;
        Assert.Equal(-Errno.EIO, session.GetAttributes().Error);
        Assert.Equal(-Errno.EIO, session.Send(FuseOpcode.Read, new FuseReadIn { Size = 10 }).Error);
        Assert.Equal(-Errno.EIO, session.Send(FuseOpcode.Lseek, new FuseLseekIn { Whence = 3 }).Error);
    }

    [Fact]
    public void CountsBeyondTheRequestAreEIO()
    {
        using SessionFixture session = SessionFixture.Initialised(_files);
        _files.Answer = () => 11;
        Assert.Equal(-Errno.EIO, session.Send(FuseOpcode.Read, new FuseReadIn { Size = 10 }).Error);
        Assert.Equal(-Errno.EIO, session.Send(
            FuseOpcode.Write, new FuseWriteIn { Size = 10 }, payload: new byte[10]).Error);
        Assert.Equal(-Errno.EIO, session.Send(
            FuseOpcode.CopyFileRange64, new FuseCopyFileRangeIn { Length = 10 }).Error);
    }
}
