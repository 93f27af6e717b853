// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Requests that are one transfer: who serves them, what becomes of failures, and how they end.</summary>
public sealed class RingTransferTests : IDisposable
{
    private const int Workers = 4;
    private static readonly TimeSpan Patience = Eventually.Patience;

    private readonly TransferFileSystem _files = new(1 << 20);

    public void Dispose() => _files.Dispose();

    [Fact]
    public void ReadsAndWritesAreTransfers()
    {
        using SessionFixture session = Start();
        byte[] data = new byte[8192];
        new Random(5).NextBytes(data);
        Assert.Equal(8192u, Ring(session).Send(Write(1, 4096, data)).As<FuseWriteOut>().Size);
        Assert.Equal(data, Ring(session).Send(Read(2, 4096, 8192)).Payload);
        Assert.Equal(2, Ring(session).Transfers);
        Assert.Equal(["begin write", "done", "begin read", "done"], _files.Calls);
        Eventually.Holds(() => session.Server.Activity.Served == 3);
    }

    [Theory]
    [InlineData(100)]
    [InlineData(0)]
    [InlineData(-Errno.EIO)]
    [InlineData(-Errno.EAGAIN)]
    public void WhatIsNotTransferredWhollyIsServedTheUsualWay(int result)
    {
        using SessionFixture session = Start();
        byte[] data = new byte[4096];
        new Random(6).NextBytes(data);
        session.Kernel.OnTransfer = _ => result;
        Assert.Equal(4096u, Ring(session).Send(Write(1, 0, data)).As<FuseWriteOut>().Size);
        Assert.Equal(data, Ring(session).Send(Read(2, 0, 4096)).Payload);
        Assert.Equal(["begin write", "not done", "write", "begin read", "not done", "read"], _files.Calls);
    }

    [Fact]
    public void AFailureOfTheUsualWayIsTheAnswer()
    {
        using SessionFixture session = Start();
        session.Kernel.OnTransfer = static _ => -Errno.EIO;
        _files.Answer = -Errno.ENOSPC;
        Assert.Equal(-Errno.ENOSPC, Ring(session).Send(Write(1, 0, new byte[4096])).Error);
        Assert.Equal(-Errno.ENOSPC, Ring(session).Send(Read(2, 0, 4096)).Error);
    }

    [Fact]
    public void ZeroesNeedNoTransfer()
    {
        using SessionFixture session = Start(depth: 1);
        byte[] data = [.. Enumerable.Repeat((byte)7, 4096)];
        Assert.Equal(4096u, Ring(session).Send(Write(1, 0, data)).As<FuseWriteOut>().Size);
        _files.IsZero = true;
        Assert.Equal(new byte[8192], Ring(session).Send(Read(2, 0, 8192)).Payload);
        Assert.Equal(1, Ring(session).Transfers);
        Assert.Equal("done", _files.Calls.Last());
    }

    [Theory]
    [InlineData(100)]
    [InlineData(-Errno.EAGAIN)]
    public void WhatThePageCacheHasIsReadAtOnce(int otherwise)
    {
        using SessionFixture session = Start();
        _files.IsCached = true;
        byte[] data = [.. Enumerable.Repeat((byte)9, 4096)];
        Assert.Equal(4096u, Ring(session).Send(Write(1, 0, data)).As<FuseWriteOut>().Size);
        Assert.Equal(1, Ring(session).Transfers);
        Assert.Equal(data, Ring(session).Send(Read(2, 0, 4096)).Payload);
        Assert.Equal(1, Ring(session).Transfers);
        session.Kernel.OnReadNow = _ => otherwise;
        Assert.Equal(data, Ring(session).Send(Read(3, 0, 4096)).Payload);
        Assert.Equal(2, Ring(session).Transfers);
        Assert.Equal(["begin write", "done", "begin read", "done", "begin read", "done"], _files.Calls);
    }

    [Fact]
    public void LongCopiesAreServedTheUsualWay()
    {
        using SessionFixture session = Start();
        _files.IsCached = true;
        Assert.Equal(1 << 20, Ring(session).Send(Read(1, 0, 1 << 20)).Payload.Length);
        Assert.Equal(["begin read", "not done", "read"], _files.Calls);
        _files.IsCached = false;
        Assert.Equal(1 << 20, Ring(session).Send(Read(2, 0, 1 << 20)).Payload.Length);
        Assert.Equal(1, Ring(session).Transfers);
    }

    [Fact]
    public void WhatTheFileSystemRefusesIsServedTheUsualWay()
    {
        using SessionFixture session = Start();
        _files.Refuses = true;
        Assert.Equal(4096, Ring(session).Send(Read(1, 0, 4096)).Payload.Length);
        Assert.Equal(["read"], _files.Calls);
        Assert.Equal(0, Ring(session).Transfers);
    }

    /// <summary>The answers of the usual way to odd requests are not to be given twice.</summary>
    [Fact]
    public void OddRequestsAreNeverTransfers()
    {
        using SessionFixture session = Start();
        FakeRing ring = Ring(session);
        Assert.Empty(ring.Send(Read(1, 0, 0)).Payload);
        Assert.Equal(-Errno.EINVAL, ring.Send(Read(2, 0, (1 << 20) + 1)).Error);
        Assert.Equal(-Errno.EINVAL, ring.Send(Read(3, ulong.MaxValue - 10, 4096)).Error);
        FuseWriteIn lying = new() { Size = 4096 };
        Assert.Equal(-Errno.EINVAL, ring.Send(Request(4, FuseOpcode.Write, lying, new byte[512])).Error);
        FakeRingRequest cut = Read(5, 0, 4096);
        Assert.Equal(-Errno.EINVAL, ring.Send(cut with { StatedPayload = 77 }).Error);
        Assert.Equal(0, ring.Transfers);
        Assert.DoesNotContain("begin read", _files.Calls);
    }

    [Fact]
    public void ExceptionsCostOneRequest()
    {
        using SessionFixture session = Start();
        _files.Throws = true;
        Assert.Equal(4096, Ring(session).Send(Read(1, 0, 4096)).Payload.Length);
        _files.Throws = false;
        _files.ThrowsAtEnd = true;
        Assert.Equal(-Errno.EIO, Ring(session).Send(Read(2, 0, 4096)).Error);
        session.Kernel.OnTransfer = static _ => 0;
        Assert.Equal(4096, Ring(session).Send(Read(3, 0, 4096)).Payload.Length);
        _files.ThrowsAtEnd = false;
        session.Kernel.OnTransfer = static _ => null;
        Assert.Equal(4096, Ring(session).Send(Read(4, 0, 4096)).Payload.Length);
    }

    /// <summary>A write that allocates may wait for one that overwrites.</summary>
    [Fact]
    public void TransfersGoOnWhileAllOtherThreadsWait()
    {
        using SessionFixture session = Start(depth: Workers + 2);
        using ManualResetEventSlim gate = new();
        _files.Syncing = () => gate.Wait(Patience);
        Task<FakeReply>[] waiting = [.. Enumerable.Range(1, Workers).Select(unique => Ring(session).SendAsync(
            Request((ulong)unique, FuseOpcode.Fsync, default(FuseFsyncIn))))];
        Eventually.Holds(() => session.Server.Activity.Busy == Workers);
        FuseActivity before = session.Server.Activity;
        Assert.Equal(4096, Ring(session).Send(Read(100, 0, 4096)).Payload.Length);
        Eventually.Holds(() => !session.Server.Activity.IsStuckSince(before));
        before = session.Server.Activity;
        Assert.True(session.Server.Activity.IsStuckSince(before));
        gate.Set();
        Assert.True(Task.WaitAll(waiting, Patience));
    }

    [Fact]
    public void ARingFullOfTransfersIsStuck()
    {
        using SessionFixture session = Start();
        using ManualResetEventSlim gate = new();
        session.Kernel.OnTransfer = _ => gate.Wait(Patience) ? null : 0;
        Task<FakeReply>[] reads = [.. Enumerable.Range(1, 4).Select(
            unique => Ring(session).SendAsync(Read((ulong)unique, 0, 4096)))];
        Eventually.Holds(
            () => session.Server.Activity.IsStuckSince(session.Server.Activity));
        gate.Set();
        Assert.True(Task.WaitAll(reads, Patience));
        Eventually.Holds(
            () => !session.Server.Activity.IsStuckSince(session.Server.Activity));
    }

    /// <summary>The fake ring complains where one is closed that has a transfer under way.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void TheEndWaitsForTransfersAndThoseInWork(bool unmount)
    {
        using SessionFixture session = Start();
        using ManualResetEventSlim gate = new();
        session.Kernel.OnTransfer = _ => gate.Wait(Patience) ? null : 0;
        _files.Syncing = () => gate.Wait(Patience);
        Task<FakeReply> read = Ring(session).SendAsync(Read(1, 0, 4096));
        Task<FakeReply> sync = Ring(session).SendAsync(Request(2, FuseOpcode.Fsync, default(FuseFsyncIn)));
        Eventually.Holds(
            () => Ring(session).Transfers == 1 && session.Server.Activity.Busy == 1);
        Task stop = Task.Run(unmount ? session.Kernel.End : session.Server.Stop);
        Assert.False(session.Server.WaitForEnd(TimeSpan.FromMilliseconds(200)));
        gate.Set();
        Assert.True(session.Server.WaitForEnd(Patience));
        Assert.True(stop.Wait(Patience));
        Assert.True(read.Wait(Patience));
        Assert.True(sync.Wait(Patience));
        Assert.Equal("done", _files.Calls.Last(static call => call.EndsWith("done", StringComparison.Ordinal)));
    }

    [Fact]
    public void ManyAtOnceGetTheirOwnAnswers()
    {
        const int Rounds = 2000;
        using SessionFixture session = Start(depth: 16, rings: 2);
        Random random = new(11);
        session.Kernel.OnTransfer = _ => Random.Shared.Next(8) == 0 ? 1 : null;
        for (uint page = 0; page < 256; page++)
        {
            byte[] bytes = new byte[4096];
            MemoryMarshal.Write(bytes, page);
            Ring(session).Send(Write(page, page * 4096, bytes));
        }

        List<(Task<FakeReply> Reply, uint Page)> reads = [];
        for (int i = 0; i < Rounds; i++)
        {
            uint page = (uint)random.Next(256);
            FakeRing ring = session.Kernel.Rings[random.Next(2)];
            reads.Add((ring.SendAsync(Read(1000 + (ulong)i, page * 4096ul, 4096)), page));
        }

        foreach ((Task<FakeReply> reply, uint page) in reads)
        {
            Assert.True(reply.Wait(Patience));
            Assert.Equal(page, MemoryMarshal.Read<uint>(reply.Result.Payload));
        }
    }

    private static FakeRing Ring(SessionFixture session) => session.Kernel.Rings[0];

    private static FakeRingRequest Read(ulong unique, ulong offset, uint size) =>
        Request(unique, FuseOpcode.Read, new FuseReadIn { Offset = offset, Size = size });

    private static FakeRingRequest Write(ulong unique, ulong offset, byte[] data) =>
        Request(unique, FuseOpcode.Write, new FuseWriteIn { Offset = offset, Size = (uint)data.Length }, data);

    private static FakeRingRequest Request<T>(
        ulong unique, FuseOpcode opcode, in T arguments, byte[]? payload = null)
        where T : unmanaged => FakeRingRequest.Of(
            (uint)opcode,
            SessionFixture.File,
            unique,
            MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in arguments)).ToArray(),
            payload ?? []);

    private SessionFixture Start(int depth = 4, int rings = 1)
    {
        SessionFixture session = new(
            _files,
            new FuseServerOptions { Workers = Workers, Uring = true },
            new FakeKernel { RingCount = rings, RingDepth = depth });
        session.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0);
        Assert.True(session.Server.WaitForInit(Patience));
        return session;
    }
}
