// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>The data path allocates no managed memory.</summary>
public sealed unsafe class AllocationTests
{
    private const int Requests = 100_000;
    private const int Bound = 4096;

    [Fact]
    public void ReadsWritesAndSyncsAllocateNothing()
    {
        using MemoryFileSystem files = new(1 << 20);
        FuseSession session = new(files, new FuseServerOptions());
        using FuseSlot slot = new(session.PayloadCapacity, descriptor: 0);
        FuseInitIn init = SessionFixture.InitRequest();
        int length = Build(slot, FuseOpcode.Init, init, payload: 0);
        Assert.True(session.Dispatch(slot, length) > FuseAbi.OutHeaderSize);

        // The first rounds compile.
        Run(session, slot, 5_000);
        Assert.InRange(ManagedAllocation.Of(() => Run(session, slot, Requests)), 0, Bound);
    }

    [Fact]
    public void RequestsByRingsAllocateNothing()
    {
        using MemoryFileSystem files = new(1 << 20);
        FuseSession session = new(files, new FuseServerOptions());
        using FuseSlot slot = new(session.PayloadCapacity, descriptor: 0);
        Assert.True(session.Dispatch(
            slot, Build(slot, FuseOpcode.Init, SessionFixture.InitRequest(), payload: 0)) > FuseAbi.OutHeaderSize);
        using FuseRingEntry entry = new(queue: 0, session.PayloadCapacity);
        RunRing(session, entry, 5_000);
        Assert.InRange(ManagedAllocation.Of(() => RunRing(session, entry, Requests)), 0, Bound);
    }

    [Fact]
    public void TransfersThatAreQueuedAllocateNothing()
    {
        using TransferFileSystem files = new(1 << 20) { KeepsCalls = false };
        FuseSession session = new(files, new FuseServerOptions());
        using FuseSlot slot = new(session.PayloadCapacity, descriptor: 0);
        Assert.True(session.Dispatch(
            slot, Build(slot, FuseOpcode.Init, SessionFixture.InitRequest(), payload: 0)) > FuseAbi.OutHeaderSize);
        CountingTransport transport = new();
        using TransferQueue queue = TransferQueue.TryCreate(session, transport, 8)!;
        long byServer = 0;
        Thread server = new(() =>
        {
            queue.Serve();
            byServer = GC.GetAllocatedBytesForCurrentThread();
        });
        server.Start();

        // Never alone from here on.
        Assert.False(queue.TryTake(slot, 0));
        RunQueue(queue, transport, slot, 5_000);
        Assert.InRange(ManagedAllocation.Of(() => RunQueue(queue, transport, slot, Requests / 5)), 0, Bound);
        queue.Close();
        server.Join();

        // Of 50,000 transfers: what starting it took and collections count to it, not a byte of each.
        Assert.InRange(byServer, 0, 10 * Bound);
    }

    private static void RunQueue(TransferQueue queue, CountingTransport transport, FuseSlot slot, int rounds)
    {
        for (int i = 0; i < rounds; i++)
        {
            int before = transport.Replies;
            int length = Build(slot, FuseOpcode.Write, new FuseWriteIn { Size = 4096 }, 4096);
            if (!queue.TryTake(slot, length))
                Assert.Fail("the write is not taken");
            length = Build(slot, FuseOpcode.Read, new FuseReadIn { Size = 4096 }, 0);
            if (!queue.TryTake(slot, length))
                Assert.Fail("the read is not taken");
            while (transport.Replies != before + 2)
                Thread.Yield();
        }
    }

    private static void RunRing(FuseSession session, FuseRingEntry entry, int rounds)
    {
        for (int i = 0; i < rounds; i++)
        {
            *(FuseWriteIn*)(entry.Headers + FuseRingHeaders.PartSize) = new FuseWriteIn { Size = 4096 };
            RunRing(session, entry, FuseOpcode.Write, request: 4096, reply: (uint)sizeof(FuseWriteOut));
            *(FuseReadIn*)(entry.Headers + FuseRingHeaders.PartSize) = new FuseReadIn { Size = 4096 };
            RunRing(session, entry, FuseOpcode.Read, request: 0, reply: 4096);
        }
    }

    private static void RunRing(FuseSession session, FuseRingEntry entry, FuseOpcode opcode, uint request, uint reply)
    {
        *(FuseInHeader*)entry.Headers = new FuseInHeader
        {
            Length = (uint)(FuseAbi.InHeaderSize + FuseOpcodes.ArgumentsSize(opcode)) + request,
            Opcode = opcode,
            Unique = 2,
            Node = SessionFixture.File,
        };
        entry.Ring->PayloadSize = request;
        entry.Complete(session.Dispatch(entry.Slot, entry.Accept()));
        if (entry.Ring->PayloadSize != reply || ((FuseOutHeader*)entry.Headers)->Error != 0)
            Assert.Fail($"reply of {entry.Ring->PayloadSize} bytes, error {((FuseOutHeader*)entry.Headers)->Error}");
    }

    private static void Run(FuseSession session, FuseSlot slot, int rounds)
    {
        for (int i = 0; i < rounds; i++)
        {
            ulong offset = (ulong)(i % 200) * 4096;
            int length = Build(slot, FuseOpcode.Write, new FuseWriteIn { Offset = offset, Size = 4096 }, 4096);
            CheckReply(session.Dispatch(slot, length), slot, sizeof(FuseWriteOut));
            length = Build(slot, FuseOpcode.Read, new FuseReadIn { Offset = offset, Size = 4096 }, 0);
            CheckReply(session.Dispatch(slot, length), slot, 4096);
            length = Build(slot, FuseOpcode.Fsync, default(FuseFsyncIn), 0);
            CheckReply(session.Dispatch(slot, length), slot, 0);
        }
    }

    private static int Build<T>(FuseSlot slot, FuseOpcode opcode, in T arguments, int payload)
        where T : unmanaged
    {
        int length = FuseAbi.InHeaderSize + sizeof(T) + payload;
        *(FuseInHeader*)slot.Request = new FuseInHeader
        {
            Length = (uint)length,
            Opcode = opcode,
            Unique = 2,
            Node = SessionFixture.File,
        };
        MemoryMarshal.Write(new Span<byte>(slot.Request + FuseAbi.InHeaderSize, sizeof(T)), in arguments);
        return length;
    }

    private static void CheckReply(int length, FuseSlot slot, int payload)
    {
        if (length != FuseAbi.OutHeaderSize + payload || ((FuseOutHeader*)slot.Reply)->Error != 0)
            Assert.Fail($"reply of {length} bytes, error {((FuseOutHeader*)slot.Reply)->Error}");
    }

    /// <summary>Takes replies, and checks that they are no errors.</summary>
    private sealed class CountingTransport : IFuseTransport
    {
        private int _replies;

        public int Replies => Volatile.Read(ref _replies);

        public void Reply(FuseSlot slot, int length)
        {
            if (((FuseOutHeader*)slot.Reply)->Error == 0)
                Interlocked.Increment(ref _replies);
        }

        public FuseSlot CreateSlot(int payloadCapacity) => throw new NotSupportedException();

        public int Receive(FuseSlot slot) => throw new NotSupportedException();

        public int Notify(ReadOnlySpan<byte> message) => throw new NotSupportedException();

        public void Interrupt(FuseSlot slot) => throw new NotSupportedException();

        public IReadOnlyList<IFuseRing> CreateRings(int payloadCapacity, out string refusal) =>
            throw new NotSupportedException();

        public void ReleaseSlot(FuseSlot slot) => throw new NotSupportedException();

        public void Dispose()
        {
        }
    }
}
