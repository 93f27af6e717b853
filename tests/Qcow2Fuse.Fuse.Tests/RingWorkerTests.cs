// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>What the thread of a ring does, step by step, on the thread of the test.</summary>
public sealed unsafe class RingWorkerTests
{
    private const int Length = FuseAbi.InHeaderSize + 40;
    private static readonly FuseServerOptions Options = new()
    {
        Resumption = new FuseResumption(Minor: 45, Features: 0, MaxWrite: 1 << 20),
    };

    [Fact]
    public void TransfersAllocateNoManagedMemory()
    {
        using EndlessRing ring = new();
        RingWorker worker = new(ring, new RingPool(), new FuseSession(new PlainFileSystem(), Options));
        int last = 1000;
        ring.AtRound = round => round <= last;
        int failure = worker.Serve(static () => false);
        Assert.Equal(0, ManagedAllocation.Of(() =>
        {
            last += 2000;
            failure |= worker.Serve(static () => false);
        }));
        Assert.Equal(0, failure);

        // The round that ended the ring before is not served.
        int rings = (last - 1000) / 2000;
        Assert.Equal(last - rings, worker.Served);
        Assert.Equal(0, worker.UnderWay);
    }

    [Fact]
    public void AFailedEntryEndsItAndABrokenRingAtOnce()
    {
        using EndlessRing ring = new() { AtRound = static _ => false };
        ring.Last = new FuseRingEvent(FuseRingEventKind.Failed, Value: -Errno.EINVAL);
        RingWorker worker = new(ring, new RingPool(), new FuseSession(new PlainFileSystem(), Options));
        Assert.Equal(-Errno.EINVAL, worker.Serve(static () => false));
        ring.AtRound = static round => round < 3;
        ring.Last = new FuseRingEvent(FuseRingEventKind.Broken, Value: -Errno.EBADF);
        ring.LosesTransfers = true;
        Assert.Equal(-Errno.EBADF, worker.Serve(static () => false));
        Assert.Equal(1, worker.UnderWay);
    }

    /// <summary>A request, its transfer, and so on, as long as the test wants.</summary>
    private sealed class EndlessRing : IFuseRing
    {
        private readonly FuseRingEntry _entry = new(0, 2 * FuseSlot.PageSize);
        private bool _isMoving;
        private int _rounds;

        public Func<int, bool> AtRound { get; set; } = static _ => false;

        public FuseRingEvent Last { get; set; } = new(FuseRingEventKind.Ended);

        public bool LosesTransfers { get; set; }

        public int? Processor => 0;

        public int Count => 1;

        public int Open() => 0;

        public int Register() => 0;

        public FuseRingEvent Receive()
        {
            if (_isMoving)
            {
                _isMoving = false;
                return LosesTransfers ? Last : new FuseRingEvent(FuseRingEventKind.Transferred, _entry, 4096);
            }

            if (!AtRound(++_rounds))
                return Last;
            FuseInHeader* header = (FuseInHeader*)_entry.Slot.Request;
            *header = new FuseInHeader { Length = Length, Opcode = FuseOpcode.Read, Node = 2 };
            *(FuseReadIn*)(header + 1) = new FuseReadIn { Offset = 8192, Size = 4096 };
            return new FuseRingEvent(FuseRingEventKind.Request, _entry, Length);
        }

        public void Reply(FuseRingEntry entry) => Assert.True(!_isMoving);

        public void Transfer(FuseRingEntry entry) => _isMoving = true;

        public int TryReadNow(FuseRingEntry entry) => -Errno.EAGAIN;

        public void Wake()
        {
        }

        public void Close()
        {
        }

        public void Dispose() => _entry.Dispose();
    }

    private sealed class PlainFileSystem : IFuseFileSystem
    {
        public bool TryBeginTransfer(ulong node, ulong handle, long offset, FuseTransfer transfer) => offset == 8192;

        public int Lookup(ulong parent, ReadOnlySpan<byte> name, out FuseAttributes attributes) =>
            throw new NotSupportedException();

        public int GetAttributes(ulong node, out FuseAttributes attributes) => throw new NotSupportedException();

        public int Open(ulong node, FuseOpenRequest request, out FuseOpenResult result) =>
            throw new NotSupportedException();

        public int Read(ulong node, ulong handle, long offset, Span<byte> destination) =>
            throw new NotSupportedException();

        public int Write(ulong node, ulong handle, long offset, ReadOnlySpan<byte> source, FuseWriteKind kind) =>
            throw new NotSupportedException();

        public int Fsync(ulong node, ulong handle, bool dataOnly) => throw new NotSupportedException();

        public int GetStatistics(ulong node, out FuseStatistics statistics) => throw new NotSupportedException();

        public int ReadDirectory(ulong node, ulong handle, long offset, ref FuseDirectoryWriter entries) =>
            throw new NotSupportedException();
    }
}
