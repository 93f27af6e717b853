// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Fuse;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>
/// Requests that may take seconds, each with a thread and buffers of its own, so that any number of them leaves the
/// loops to all others. Where no more threads can be had the loops serve them, but never with all their threads: one is
/// left to take what the kernel says next, an interrupt for instance.
/// </summary>
/// <param name="session">Where they are served.</param>
/// <param name="transport">Takes the replies to those that came by a worker.</param>
/// <param name="threads">Counts their threads.</param>
/// <param name="options">How many threads a loop has, and whether there is room for one more.</param>
internal sealed class LongCalls(
    FuseSession session, IFuseTransport transport, ServerThreads threads, FuseServerOptions options)
{
    /// <summary>As many at a time with threads of their own.</summary>
    private const int CallsMax = 64;

    private int _calls;
    private int _byLoops;
    private long _served;

    /// <summary>Requests that were answered by threads of their own, or refused.</summary>
    public long Served => Volatile.Read(ref _served);

    /// <summary>Who serves a request that a worker has received.</summary>
    public LongServer Assign(FuseSlot slot, int length) =>
        session.MayTakeLong(slot, length) ? Assign(TryTake(slot, length)) : LongServer.Worker;

    /// <summary>Who serves a request that came by a ring.</summary>
    public LongServer Assign(FuseRingEntry entry) =>
        session.MayTakeLong(entry.Slot, entry.Length) ? Assign(TryTake(entry)) : LongServer.Worker;

    /// <summary>A thread of a loop that was assigned a long request is free for others again.</summary>
    public void EndByLoop() => Interlocked.Decrement(ref _byLoops);

    /// <summary>A request was refused, because nobody can serve it.</summary>
    public void CountRefused() => Interlocked.Increment(ref _served);

    /// <summary>The workers of the one loop and the pool of the other are as many.</summary>
    private LongServer Assign(bool hasOwnThread)
    {
        if (hasOwnThread)
            return LongServer.Another;
        if (Interlocked.Increment(ref _byLoops) <= Math.Max(options.Workers - 1, 1))
            return LongServer.LongByWorker;
        EndByLoop();
        return LongServer.Nobody;
    }

    /// <summary>Gives a request of a worker a thread and buffers of its own; false where there is none to be had.
    /// </summary>
    private bool TryTake(FuseSlot slot, int length)
    {
        FuseSlot? own = null;
        bool isTaken = false;
        try
        {
            own = Copy(slot, length);
            isTaken = TryStart(() => Serve(own, length));
        }
        catch (OutOfMemoryException)
        {
            // The worker goes on with what it has.
        }

        if (!isTaken)
            own?.Dispose();
        return isTaken;
    }

    /// <summary>Gives a request of a ring a thread of its own; false where there is none to be had.</summary>
    private bool TryTake(FuseRingEntry entry)
    {
        try
        {
            return TryStart(() => RingPool.Serve(session, entry));
        }
        catch (OutOfMemoryException)
        {
            // The pool serves it.
            return false;
        }
    }

    /// <summary>Has a request served by a thread of its own; false where there is none to be had.</summary>
    /// <exception cref="OutOfMemoryException">There is no memory to ask for one. Nothing was counted.</exception>
    private bool TryStart(Action serve)
    {
        ThreadStart work = () => Work(serve);
        bool isStarted = false;
        int calls = Interlocked.Increment(ref _calls);
        try
        {
            isStarted = calls <= CallsMax && options.HasRoom() && threads.TryStart(work);
        }
        finally
        {
            if (!isStarted)
                Interlocked.Decrement(ref _calls);
        }

        return isStarted;
    }

    private void Work(Action serve)
    {
        _ = ServingThread.TrySetIOFlusher();
        try
        {
            serve();
        }
        finally
        {
            Interlocked.Increment(ref _served);
            Interlocked.Decrement(ref _calls);
            threads.CountDown();
        }
    }

    private void Serve(FuseSlot slot, int length)
    {
        try
        {
            int reply = session.Dispatch(slot, length);
            if (reply > 0)
                transport.Reply(slot, reply);
        }
        finally
        {
            session.Forget(slot);
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
