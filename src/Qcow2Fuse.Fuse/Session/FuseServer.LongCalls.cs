// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse;

/// <summary>
/// Requests that may take seconds, each with a thread and buffers of its own, so that any number of them leaves the
/// workers to all others.
/// </summary>
public sealed partial class FuseServer
{
    /// <summary>As many at a time; the workers serve what is above.</summary>
    private const int LongCallsMax = 64;

    private int _longCalls;
    private long _longServed;

    /// <summary>Called by a worker that has received a request; true if somebody else serves it.</summary>
    private bool TryTakeLong(FuseSlot slot, int length)
    {
        if (!Session.MayTakeLong(slot, length))
            return false;
        if (Interlocked.Increment(ref _longCalls) > LongCallsMax || !TryStartLong(slot, length))
        {
            Interlocked.Decrement(ref _longCalls);
            return false;
        }

        return true;
    }

    private unsafe bool TryStartLong(FuseSlot slot, int length)
    {
        FuseSlot own = new(2 * FuseSlot.PageSize, slot.Descriptor);
        new ReadOnlySpan<byte>(slot.Request, length).CopyTo(new Span<byte>(own.Request, length));
        try
        {
            StartThread(() => ServeLong(own, length));
            return true;
        }
        catch (OutOfMemoryException)
        {
            // What the runtime throws where the system has no more threads.
            own.Dispose();
            return false;
        }
    }

    private void ServeLong(FuseSlot slot, int length)
    {
        _ = Linux.ServingThread.TrySetIOFlusher();
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
            Interlocked.Increment(ref _longServed);
            Interlocked.Decrement(ref _longCalls);
            CountDown();
        }
    }
}
