// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Workers: they begin, they serve at once, and they end.</summary>
public sealed class ServerTests
{
    private static readonly TimeSpan Patience = Eventually.Patience;

    [Fact]
    public void InitIsAnnouncedOnceItIsAnswered()
    {
        using MemoryFileSystem files = new(1 << 20);
        int announced = 0;
        using SessionFixture session = new(files, new FuseServerOptions
        {
            Workers = 3,
            OnInitialised = () => Interlocked.Increment(ref announced),
        });
        Assert.False(session.Server.WaitForInit(TimeSpan.FromMilliseconds(20)));
        session.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0);
        Assert.True(session.Server.WaitForInit(Patience));
        for (int i = 0; i < 10; i++)
            Assert.Equal(0, session.GetAttributes().Error);
        Eventually.Holds(() => Volatile.Read(ref announced) == 1);
    }

    [Fact]
    public void EveryWorkerServesWhileOthersWait()
    {
        const int Workers = 4;
        FailingFileSystem files = new();
        using SessionFixture session = SessionFixture.Initialised(files, new FuseServerOptions { Workers = Workers });
        using Barrier barrier = new(Workers);
        files.Answer = () => barrier.SignalAndWait(Patience) ? 0 : -Errno.EBUSY;
        Task<FakeReply>[] replies = Enumerable.Range(0, Workers)
            .Select(_ => session.Kernel.SendAsync((uint)FuseOpcode.GetAttr, SessionFixture.File, new byte[16]))
            .ToArray();
        Assert.True(Task.WaitAll(replies, Patience));
        Assert.All(replies, reply => Assert.Equal(0, reply.Result.Error));
    }

    [Fact]
    public void UnmountEndsTheWorkers()
    {
        using MemoryFileSystem files = new(1 << 20);
        using SessionFixture session = SessionFixture.Initialised(files);
        Assert.False(session.Server.WaitForEnd(TimeSpan.FromMilliseconds(20)));
        session.Kernel.End();
        Assert.True(session.Server.WaitForEnd(Patience));
        Assert.True(session.Server.Ended.IsCompletedSuccessfully);
    }

    [Fact]
    public void EndBeforeInitIsNotInit()
    {
        using MemoryFileSystem files = new(1 << 20);
        using SessionFixture session = new(files);
        session.Kernel.End();
        Assert.False(session.Server.WaitForInit(Patience));
        Assert.True(session.Server.WaitForEnd(Patience));
    }

    [Fact]
    public void StopWaitsForTheRequestInWork()
    {
        FailingFileSystem files = new();
        using SessionFixture session = SessionFixture.Initialised(files);
        using ManualResetEventSlim entered = new();
        using ManualResetEventSlim release = new();
        files.Answer = () =>
        {
            entered.Set();
            return release.Wait(Patience) ? 0 : -Errno.EBUSY;
        };
        Task<FakeReply> reply = session.Kernel.SendAsync((uint)FuseOpcode.GetAttr, SessionFixture.File, new byte[16]);
        Assert.True(entered.Wait(Patience));
        TestThread stop = TestThread.Start(session.Server.Stop);
        stop.ShouldWait("a request is in work");
        release.Set();
        stop.ShouldEnd();
        Assert.Equal(0, reply.Result.Error);
    }

    [Fact]
    public void StartsOnce()
    {
        using MemoryFileSystem files = new(1 << 20);
        using SessionFixture session = new(files);
        Assert.Throws<InvalidOperationException>(session.Server.Start);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(257)]
    public void NumberOfWorkersIsBounded(int workers)
    {
        using MemoryFileSystem files = new(1 << 20);
        using FakeKernel kernel = new();
        Assert.Throws<ArgumentException>(
            () => new FuseServer(kernel, files, new FuseServerOptions { Workers = workers }));
    }
}
