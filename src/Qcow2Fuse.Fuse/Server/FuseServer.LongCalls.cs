// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Fuse;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>
/// Requests that may take seconds, each with a thread and buffers of its own, so that any number of them leaves the
/// workers to all others. Where no more threads can be had workers serve them, but never all workers: one is left to
/// take what the kernel says next, an interrupt for instance.
/// </summary>
public sealed partial class FuseServer
{
    /// <summary>As many at a time with threads of their own.</summary>
    private const int LongCallsMax = 64;

    private int _longCalls;
    private int _longByWorkers;
    private long _longServed;

    /// <summary>
    /// Who serves a request that may take long, whether it came by /dev/fuse or by a ring. The workers of the one and
    /// the pool of the other are as many.
    /// </summary>
    /// <param name="hasOwnThread">Whether it has got a thread of its own.</param>
    private LongServer Assign(bool hasOwnThread)
    {
        if (hasOwnThread)
            return LongServer.Another;
        if (Interlocked.Increment(ref _longByWorkers) <= Math.Max(_options.Workers - 1, 1))
            return LongServer.LongByWorker;
        EndLongByWorker();
        return LongServer.Nobody;
    }

    /// <summary>A worker is free for others again.</summary>
    private void EndLongByWorker() => Interlocked.Decrement(ref _longByWorkers);

    /// <summary>Gives a request of a worker a thread and buffers of its own; false where there is none to be had.
    /// </summary>
    private bool TryTakeLong(FuseSlot slot, int length)
    {
        FuseSlot? own = null;
        bool isTaken = false;
        try
        {
            own = Copy(slot, length);
            isTaken = TryStartLong(() => ServeLong(own, length));
        }
        catch (OutOfMemoryException)
        {
            // The worker goes on with what it has.
        }

        if (!isTaken)
            own?.Dispose();
        return isTaken;
    }

    /// <summary>Has a long request served by a thread of its own; false where there is none to be had.</summary>
    /// <exception cref="OutOfMemoryException">There is no memory to ask for one. Nothing was counted.</exception>
    private bool TryStartLong(Action serve)
    {
        ThreadStart work = () => EndLong(serve);
        bool isStarted = false;
        int calls = Interlocked.Increment(ref _longCalls);
        try
        {
            isStarted = calls <= LongCallsMax && _options.HasRoom() && TryStartThread(work);
        }
        finally
        {
            if (!isStarted)
                Interlocked.Decrement(ref _longCalls);
        }

        return isStarted;
    }

    private void EndLong(Action serve)
    {
        _ = ServingThread.TrySetIOFlusher();
        try
        {
            serve();
        }
        finally
        {
            Interlocked.Increment(ref _longServed);
            Interlocked.Decrement(ref _longCalls);
            CountDown();
        }
    }

    private void ServeLong(FuseSlot slot, int length)
    {
        try
        {
            int reply = Session.Dispatch(slot, length);
            if (reply > 0)
                _transport.Reply(slot, reply);
        }
        finally
        {
            Session.Forget(slot);
            slot.Dispose();
        }
    }

    private static unsafe FuseSlot Copy(FuseSlot slot, int length)
    {
        FuseSlot copy = new(FuseSession.PayloadOf(slot, length), slot.Descriptor);
        new ReadOnlySpan<byte>(slot.Request, length).CopyTo(new Span<byte>(copy.Request, length));
        return copy;
    }
}
