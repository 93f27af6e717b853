// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Transport;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>
/// The requests in work, by the kernel's numbers, and what it has said of them (FUSE_INTERRUPT). An interrupt may come
/// before its request is known here, since another thread has received that one; it is kept for a moment.
/// </summary>
internal sealed class FuseCalls
{
    private const int EarlyMax = 64;
    private const int EarlyMilliseconds = 1000;

    private readonly Lock _lock = new();
    private readonly List<FuseCall> _calls = [];
    private readonly Queue<(ulong Unique, long Ticks)> _early = new(EarlyMax);
    private int _earlyCount;

    /// <summary>A call for a thread's slot; it is used for one request after the other.</summary>
    public FuseCall Create()
    {
        FuseCall call = new();
        lock (_lock)
            _calls.Add(call);
        return call;
    }

    /// <summary>A call is not used any more.</summary>
    public void Remove(FuseCall call)
    {
        lock (_lock)
            _calls.Remove(call);
    }

    /// <summary>The thread begins to serve a request.</summary>
    public void Begin(FuseCall call, ulong unique)
    {
        call.Begin(unique);

        // Whoever interrupts counts first and looks for the call then: one of the two sees the other.
        Interlocked.MemoryBarrier();
        if (Volatile.Read(ref _earlyCount) > 0)
            TakeEarly(call, unique);
    }

    /// <summary>The kernel says that nobody waits for a request any more.</summary>
    public void Interrupt(ulong unique)
    {
        lock (_lock)
        {
            DropOld();
            if (_early.Count == EarlyMax)
                _early.Dequeue();
            _early.Enqueue((unique, Environment.TickCount64));
            Volatile.Write(ref _earlyCount, _early.Count);
            Interlocked.MemoryBarrier();
            foreach (FuseCall call in _calls)
            {
                if (call.Unique == unique)
                    call.Interrupt();
            }
        }
    }

    private void TakeEarly(FuseCall call, ulong unique)
    {
        lock (_lock)
        {
            DropOld();
            foreach ((ulong early, _) in _early)
            {
                if (early == unique)
                    call.Interrupt();
            }
        }
    }

    private void DropOld()
    {
        long oldest = Environment.TickCount64 - EarlyMilliseconds;
        while (_early.TryPeek(out (ulong Unique, long Ticks) first) && first.Ticks < oldest)
            _early.Dequeue();
        Volatile.Write(ref _earlyCount, _early.Count);
    }
}
