// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Requests of /dev/fuse that are left to the disk: which, what becomes of failures, and how they end.
/// </summary>
public sealed class TransferQueueTests : IDisposable
{
    private const int Workers = 3;
    private static readonly TimeSpan Patience = Eventually.Patience;

    private readonly TransferFileSystem _files = new(1 << 20);
    private readonly ManualResetEventSlim _entered = new();
    private readonly ManualResetEventSlim _released = new();

    public void Dispose()
    {
        _files.Dispose();
        _entered.Dispose();
        _released.Dispose();
    }

    [Fact]
    public void WhoIsAloneIsServedByAWorker()
    {
        using SessionFixture session = Start();
        byte[] data = [.. Enumerable.Repeat((byte)3, 4096)];
        Assert.Equal(4096u, Write(session, 0, data).As<FuseWriteOut>().Size);
        Assert.Equal(data, Read(session, 0, 4096).Payload);
        Assert.Equal(["write", "read"], _files.Calls);
    }

    [Fact]
    public void OthersAreTransfers()
    {
        using SessionFixture session = Start();
        Task<FakeReply> other = Occupy(session);
        byte[] data = new byte[65536];
        new Random(5).NextBytes(data);
        Assert.Equal(65536u, Write(session, 4096, data).As<FuseWriteOut>().Size);
        Assert.Equal(data[4096..12288], Read(session, 8192, 8192).Payload);
        Assert.Equal(["begin write", "done", "begin read", "done"], _files.Calls);
        AwaitServed(session, 3);
        Release(other);
    }

    [Fact]
    public void WhatComesShortIsServedTheUsualWay()
    {
        using SessionFixture session = Start();
        Task<FakeReply> other = Occupy(session);
        _files.Missing = 1 << 20;
        Assert.Equal(4096, Read(session, 0, 4096).Payload.Length);
        Assert.Equal(["begin read", "not done", "read"], _files.Calls);
        _files.Answer = -Errno.ENOSPC;
        Assert.Equal(-Errno.ENOSPC, Read(session, 0, 4096).Error);
        Release(other);
    }

    /// <summary>Descriptor 2 to the power of 30 is none.</summary>
    [Fact]
    public void WhatTheKernelRefusesIsServedTheUsualWay()
    {
        using SessionFixture session = Start();
        Task<FakeReply> other = Occupy(session);
        _files.Descriptor = 1 << 30;
        byte[] data = [.. Enumerable.Repeat((byte)4, 4096)];
        Assert.Equal(4096u, Write(session, 0, data).As<FuseWriteOut>().Size);
        Assert.Equal(data, Read(session, 0, 4096).Payload);
        Assert.Equal(["begin write", "not done", "write", "begin read", "not done", "read"], _files.Calls);
        Release(other);
    }

    [Fact]
    public void CachedAndLongReadsAreServedTheUsualWay()
    {
        using SessionFixture session = Start();
        Task<FakeReply> other = Occupy(session);
        Assert.Equal(131072, Read(session, 0, 131072).Payload.Length);
        Assert.Equal(["read"], _files.Calls);
        Assert.Equal(["begin read", "not done", "read"], CallsSince(() => _files.IsCached = true));
        Assert.Equal(["read"], CallsSince(() => _files.Refuses = true));
        Release(other);

        IEnumerable<string> CallsSince(Action change)
        {
            change();
            _files.Calls.Clear();
            Assert.Equal(4096, Read(session, 0, 4096).Payload.Length);
            return _files.Calls;
        }
    }

    [Fact]
    public void WritesThatMustBeDurableAreServedTheUsualWay()
    {
        using SessionFixture session = Start();
        Task<FakeReply> other = Occupy(session);
        FuseWriteIn write = new() { Size = 4096, Flags = 0x1000 };
        Assert.Equal(0, session.Send(FuseOpcode.Write, write, payload: new byte[4096]).Error);
        Assert.Equal(["write synchronously"], _files.Calls);
        Release(other);
    }

    [Fact]
    public void ZeroesNeedNoTransfer()
    {
        using SessionFixture session = Start();
        Task<FakeReply> other = Occupy(session);
        byte[] data = [.. Enumerable.Repeat((byte)7, 8192)];
        Assert.Equal(8192u, Write(session, 0, data).As<FuseWriteOut>().Size);
        Assert.Equal(data, Read(session, 0, 8192).Payload);
        _files.IsZero = true;
        Assert.Equal(new byte[8192], Read(session, 0, 8192).Payload);
        Assert.DoesNotContain("read", _files.Calls);
        Release(other);
    }

    [Fact]
    public void ExceptionsCostOneRequest()
    {
        using SessionFixture session = Start();
        Task<FakeReply> other = Occupy(session);
        _files.Throws = true;
        Assert.Equal(4096, Read(session, 0, 4096).Payload.Length);
        _files.Throws = false;
        _files.ThrowsAtEnd = true;
        Assert.Equal(-Errno.EIO, Read(session, 0, 4096).Error);
        _files.Missing = 1 << 20;
        Assert.Equal(4096, Read(session, 0, 4096).Payload.Length);
        _files.ThrowsAtEnd = false;
        _files.Missing = 0;
        Assert.Equal(4096, Read(session, 0, 4096).Payload.Length);
        Release(other);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void TheEndWaitsForTransfers(bool unmount)
    {
        using SessionFixture session = Start();
        Task<FakeReply> other = Occupy(session);
        using ManualResetEventSlim gate = new();
        _files.Ending = () => Assert.True(gate.Wait(Patience));
        Task<FakeReply> read = SendRead(session, 0, 4096);
        Eventually.Holds(() => !_files.Calls.IsEmpty);
        Release(other);
        Task stop = Task.Run(unmount ? session.Kernel.End : session.Server.Stop);
        Assert.False(session.Server.WaitForEnd(TimeSpan.FromMilliseconds(200)));
        gate.Set();
        Assert.True(session.Server.WaitForEnd(Patience));
        Assert.True(stop.Wait(Patience));
        Assert.Equal(4096, read.Result.Payload.Length);
        Assert.Equal(["begin read", "done"], _files.Calls);
    }

    [Fact]
    public void ManyAtOnceGetTheirOwnAnswers()
    {
        const int Rounds = 5000;
        using SessionFixture session = Start();
        Random random = new(11);
        for (uint page = 0; page < 256; page++)
        {
            byte[] bytes = new byte[4096];
            MemoryMarshal.Write(bytes, page);
            Write(session, page * 4096ul, bytes);
        }

        // Who is alone serves a read itself, and a single worker may be alone with all of them.
        Task<FakeReply> other = Occupy(session);
        List<(Task<FakeReply> Reply, uint Page)> reads = [];
        for (int i = 0; i < Rounds; i++)
        {
            uint page = (uint)random.Next(256);
            reads.Add((SendRead(session, page * 4096ul, 4096), page));
        }

        foreach ((Task<FakeReply> reply, uint page) in reads)
        {
            Assert.True(reply.Wait(Patience));
            Assert.Equal(page, MemoryMarshal.Read<uint>(reply.Result.Payload));
        }

        Assert.Contains("done", _files.Calls);
        Release(other);
        AwaitServed(session, 1 + 256 + Rounds + 1);
    }

    private SessionFixture Start() => SessionFixture.Initialised(
        _files, new FuseServerOptions { Workers = Workers, QueuesTransfers = true });

    /// <summary>Replies are seen before they are counted.</summary>
    private static void AwaitServed(SessionFixture session, long count) =>
        Eventually.Holds(() => session.Server.Activity.Served == count);

    /// <summary>Keeps a worker busy, so that whoever comes is not alone.</summary>
    private Task<FakeReply> Occupy(SessionFixture session)
    {
        _files.Syncing = () =>
        {
            _entered.Set();
            return _released.Wait(Patience);
        };
        Task<FakeReply> reply = session.Kernel.SendAsync(
            (uint)FuseOpcode.Fsync, SessionFixture.File, BytesOf(default(FuseFsyncIn)));
        Assert.True(_entered.Wait(Patience));
        return reply;
    }

    private void Release(Task<FakeReply> other)
    {
        _released.Set();
        Assert.True(other.Wait(Patience));
        Assert.Equal(0, other.Result.Error);
    }

    private static FakeReply Read(SessionFixture session, ulong offset, uint size)
    {
        Task<FakeReply> reply = SendRead(session, offset, size);
        Assert.True(reply.Wait(Patience));
        return reply.Result;
    }

    private static Task<FakeReply> SendRead(SessionFixture session, ulong offset, uint size) =>
        session.Kernel.SendAsync(
            (uint)FuseOpcode.Read, SessionFixture.File, BytesOf(new FuseReadIn { Offset = offset, Size = size }));

    private static FakeReply Write(SessionFixture session, ulong offset, byte[] data) => session.Send(
        FuseOpcode.Write, new FuseWriteIn { Offset = offset, Size = (uint)data.Length }, payload: data);

    private static byte[] BytesOf<T>(T arguments)
        where T : unmanaged => MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in arguments)).ToArray();
}
