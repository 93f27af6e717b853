// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>
/// Requests that may have to wait for something, from the threads of rings to those that serve them: first come, first
/// served. Its length is that of the rings, and it allocates nothing.
/// </summary>
/// <remarks>
/// One thread at a time is being woken; it wakes the next one if there is more when it comes. Short requests are so
/// served by few threads, one after the other, and those that wait for something soon have all of them.
/// </remarks>
internal sealed class RingPool
{
    private readonly object _lock = new();
    private FuseRingEntry? _first;
    private FuseRingEntry? _last;
    private bool _isClosed;
    private bool _isWaking;
    private int _idle;
    private int _busy;

    /// <summary>Threads with a request in work.</summary>
    public int Busy => Volatile.Read(ref _busy);

    /// <summary>Queues a request.</summary>
    public void Add(FuseRingEntry entry)
    {
        lock (_lock)
        {
            entry.Next = null;
            if (_last is null)
                _first = entry;
            else
                _last.Next = entry;
            _last = entry;
            WakeOne();
        }
    }

    /// <summary>No more will be added; those that were are still served.</summary>
    public void Close()
    {
        lock (_lock)
        {
            _isClosed = true;
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>Serves requests until the pool is closed and empty.</summary>
    /// <param name="session">Where they are served.</param>
    /// <param name="longCalls">Takes those that may take seconds.</param>
    public void Serve(FuseSession session, LongCalls longCalls)
    {
        while (Take() is { } entry)
        {
            LongServer server = longCalls.Assign(entry);
            if (server == LongServer.Another)
            {
                Interlocked.Decrement(ref _busy);
                continue;
            }

            entry.Complete(server == LongServer.Nobody
                ? FuseSession.Refuse(entry.Slot, Errno.EAGAIN) : session.Dispatch(entry.Slot, entry.Length));
            Interlocked.Decrement(ref _busy);
            if (server == LongServer.LongByWorker)
                longCalls.EndByLoop();
            entry.Owner!.Return(entry);
        }
    }

    /// <summary>Serves a request that was taken from the pool.</summary>
    public static void Serve(FuseSession session, FuseRingEntry entry)
    {
        entry.Complete(session.Dispatch(entry.Slot, entry.Length));
        entry.Owner!.Return(entry);
    }

    private FuseRingEntry? Take()
    {
        lock (_lock)
        {
            while (_first is null)
            {
                if (_isClosed)
                    return null;
                _idle++;
                Monitor.Wait(_lock);
                _idle--;
                _isWaking = false;
            }

            FuseRingEntry taken = _first;
            _first = taken.Next;
            if (_first is null)
                _last = null;
            else
                WakeOne();
            taken.Next = null;
            Interlocked.Increment(ref _busy);
            return taken;
        }
    }

    /// <summary>With the lock held. Who has been woken counts as idle until it comes.</summary>
    private void WakeOne()
    {
        if (_isWaking || _idle == 0)
            return;
        _isWaking = true;
        Monitor.Pulse(_lock);
    }
}
