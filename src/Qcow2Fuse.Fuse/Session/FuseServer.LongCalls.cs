// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux;

namespace Qcow2Fuse.Fuse;

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

    /// <summary>Who serves a request that a worker has received.</summary>
    private enum Server
    {
        /// <summary>The worker, and it may take long.</summary>
        LongByWorker,

        /// <summary>The worker.</summary>
        Worker,

        /// <summary>A thread of its own, or it has been answered.</summary>
        Another,
    }

    private Server Assign(FuseSlot slot, int length)
    {
        if (!Session.MayTakeLong(slot, length))
            return Server.Worker;
        if (TryTakeLong(slot, length))
            return Server.Another;
        if (Interlocked.Increment(ref _longByWorkers) <= Math.Max(_options.Workers - 1, 1))
            return Server.LongByWorker;
        Interlocked.Decrement(ref _longByWorkers);
        _transport.Reply(slot, FuseSession.Refuse(slot, FuseErrno.EAGAIN));
        Interlocked.Increment(ref _longServed);
        return Server.Another;
    }

    /// <summary>Gives a request of a worker a thread and buffers of its own; false where there is none to be had.
    /// </summary>
    private bool TryTakeLong(FuseSlot slot, int length)
    {
        FuseSlot? own = null;
        try
        {
            own = Copy(slot, length);
            if (TryStartLong(() => ServeLong(own, length)))
                return true;
        }
        catch (OutOfMemoryException)
        {
            // The worker goes on with what it has.
        }

        own?.Dispose();
        return false;
    }

    /// <summary>Has a long request served by a thread of its own; false where there is none to be had.</summary>
    private bool TryStartLong(Action serve)
    {
        bool isStarted = Interlocked.Increment(ref _longCalls) <= LongCallsMax && _options.HasRoom()
            && TryStartThread(() => EndLong(serve));
        if (!isStarted)
            Interlocked.Decrement(ref _longCalls);
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
