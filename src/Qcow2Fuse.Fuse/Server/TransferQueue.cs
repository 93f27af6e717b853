// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Processes;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>
/// Requests that are one transfer past the page cache, while the disk has them: a worker begins them and takes its next
/// request, and the thread that runs <see cref="Serve"/> answers them. So a few threads keep a disk busy, and none goes
/// to sleep for a single request.
/// </summary>
/// <remarks>
/// A worker that is alone with its request serves it itself, without a change of threads. What fails, or ends half-way,
/// is dispatched as if it had never been begun: by a thread of its own, since it may wait for other transfers to end.
/// </remarks>
internal sealed class TransferQueue : IDisposable
{
    /// <summary>Requests in work from which on they are begun here.</summary>
    private const int BusyFrom = 2;

    private const int DeepFrom = 8;

    /// <summary>Longer transfers are few at a time, and are left to the workers.</summary>
    private const int LengthMax = 64 << 10;

    private readonly FuseSession _session;
    private readonly IFuseTransport _transport;
    private readonly KernelAio _aio;
    private readonly QueuedTransfer[] _places;
    private readonly Stack<QueuedTransfer> _free;
    private readonly object _lock = new();
    private readonly (int Number, int Result)[] _ended;

    private int _inWork;
    private int _underWay;
    private int _dispatched;
    private bool _isClosed;
    private long _served;

    private TransferQueue(FuseSession session, IFuseTransport transport, KernelAio aio, int count)
    {
        _session = session;
        _transport = transport;
        _aio = aio;
        _ended = new (int, int)[count];
        _places = [.. Enumerable.Range(0, count).Select(number => new QueuedTransfer(number, LengthMax))];
        _free = new Stack<QueuedTransfer>(_places);
    }

    /// <summary>Requests that workers have received and that are not answered, here or by them.</summary>
    public int InWork => Volatile.Read(ref _inWork);

    /// <summary>Whether so many requests are in work that those who wait for more find some without waiting.</summary>
    public bool IsDeep => InWork >= DeepFrom;

    /// <summary>Requests that were answered here.</summary>
    public long Served => Volatile.Read(ref _served);

    /// <summary>
    /// A queue for <paramref name="count"/> transfers at once; null where the kernel has no room for it, or forbids it.
    /// </summary>
    public static TransferQueue? TryCreate(FuseSession session, IFuseTransport transport, int count) =>
        KernelAio.Create(count, out KernelAio? aio) == 0
            ? new TransferQueue(session, transport, aio!, count) : null;

    /// <summary>As <see cref="FuseSlot.Populate"/>, for all transfers.</summary>
    public void Populate()
    {
        foreach (QueuedTransfer place in _places)
            place.Populate();
    }

    /// <summary>
    /// Called by a worker that has received a request of <paramref name="length"/> bytes; true if it is answered here.
    /// </summary>
    public bool TryTake(FuseSlot slot, int length)
    {
        bool isAlone = Interlocked.Increment(ref _inWork) < BusyFrom;
        if (isAlone || Rent() is not { } place)
            return false;
        if (TryBegin(place, slot, length))
            return true;
        Return(place);
        return false;
    }

    /// <summary>
    /// Called by a worker that is about to answer a request for which <see cref="TryTake"/> was false: whoever gets the
    /// answer may be back with the next request at once, and is alone then.
    /// </summary>
    public void Finish() => Interlocked.Decrement(ref _inWork);

    /// <summary>Answers requests until the queue is closed and empty.</summary>
    public void Serve()
    {
        while (AwaitOne())
        {
            int count = _aio.Wait(_ended);
            if (count < 0)
                throw new InvalidOperationException($"io_getevents: {Errno.Text(-count)}");
            for (int i = 0; i < count; i++)
                End(_places[_ended[i].Number], _ended[i].Result);
        }
    }

    /// <summary>Called when no worker will come any more.</summary>
    public void Close()
    {
        lock (_lock)
        {
            _isClosed = true;
            Monitor.PulseAll(_lock);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _aio.Dispose();
        foreach (QueuedTransfer place in _places)
            place.Dispose();
    }

    private bool TryBegin(QueuedTransfer place, FuseSlot slot, int length)
    {
        FuseTransfer transfer = place.Transfer;
        if (!_session.Transfers.TryBegin(slot, length, transfer, LengthMax))
            return false;
        if (transfer.Kind == FuseTransferKind.Zeroes)
        {
            place.Accept(slot, length);
            place.Slot.ReplyPayload[..transfer.Length].Clear();
            Complete(place);
            return true;
        }

        if (!transfer.IsCached)
        {
            place.Accept(slot, length);
            if (TrySubmit(place, transfer))
                return true;
        }

        _session.Transfers.Abandon(slot, transfer);
        return false;
    }

    private unsafe bool TrySubmit(QueuedTransfer place, FuseTransfer transfer)
    {
        byte* memory = place.Slot.Reply + FuseAbi.OutHeaderSize;
        int result = _aio.Begin(
            transfer.IsWrite, transfer.Descriptor, memory, transfer.Length, transfer.Offset, place.Number);
        if (result < 0)
            return false;
        CountBegun();
        return true;
    }

    private void CountBegun()
    {
        lock (_lock)
        {
            if (++_underWay == 1)
                Monitor.PulseAll(_lock);
        }
    }

    /// <summary>Waits until a transfer is under way; false when there will be none any more.</summary>
    private bool AwaitOne()
    {
        lock (_lock)
        {
            // Below zero, or zero with others under way, where an end came before its beginning was counted: whoever
            // counts it wakes this thread.
            while (_underWay <= 0)
            {
                if (_isClosed && _dispatched == 0)
                    return false;
                Monitor.Wait(_lock);
            }

            return true;
        }
    }

    private void End(QueuedTransfer place, int moved)
    {
        bool isDone = moved == place.Transfer.Length;
        lock (_lock)
        {
            _underWay--;
            if (!isDone)
                _dispatched++;
        }

        if (isDone)
        {
            Complete(place);
            return;
        }

        _session.Transfers.Abandon(place.Slot, place.Transfer);
        StartDispatch(place);
    }

    /// <summary>A method of its own, so that the closure is allocated here alone.</summary>
    private void StartDispatch(QueuedTransfer place)
    {
        try
        {
            if (ManagedRoom.TryStart(ServerThreads.New(() => Dispatch(place))))
                return;
        }
        catch (OutOfMemoryException)
        {
            // As where there is no room.
        }

        // It may wait for transfers that this thread alone can end, and nobody else is there to serve it.
        Answer(place, FuseSession.Refuse(place.Slot, Errno.ENOMEM));
        EndDispatch();
    }

    /// <summary>Serves a request whose transfer came to nothing.</summary>
    private void Dispatch(QueuedTransfer place)
    {
        Answer(place, _session.Dispatch(place.Slot, place.Length));
        EndDispatch();
    }

    private void EndDispatch()
    {
        lock (_lock)
        {
            _dispatched--;
            Monitor.PulseAll(_lock);
        }
    }

    private void Complete(QueuedTransfer place) =>
        Answer(place, _session.Transfers.Complete(place.Slot, place.Transfer));

    private void Answer(QueuedTransfer place, int reply)
    {
        Finish();
        if (reply > 0)
            _transport.Reply(place.Slot, reply);
        Interlocked.Increment(ref _served);
        Return(place);
    }

    private QueuedTransfer? Rent()
    {
        lock (_free)
            return _free.TryPop(out QueuedTransfer? place) ? place : null;
    }

    private void Return(QueuedTransfer place)
    {
        lock (_free)
            _free.Push(place);
    }
}
