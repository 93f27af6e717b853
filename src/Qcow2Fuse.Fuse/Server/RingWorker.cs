// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>
/// What the thread of a ring does: takes requests, begins and ends those that are one transfer, and hands the others to
/// a pool, which gives them back with their replies. The thread waits for the ring only.
/// </summary>
internal sealed class RingWorker(IFuseRing ring, RingPool pool, FuseSession session) : IRingOwner
{
    /// <summary>
    /// Bytes from which on a transfer from or to the page cache is handed to the pool: it is a long copy, which another
    /// processor can do as well.
    /// </summary>
    private const int CopiedElsewhere = 256 << 10;

    private FuseRingEntry? _returned;
    private int _isWaiting;
    private int _underWay;
    private long _served;

    public IFuseRing Ring { get; } = ring;

    /// <summary>Where the thread runs; null for a ring of no processor in particular.</summary>
    public RingPlace? Place { get; set; }

    /// <summary>Requests that were answered.</summary>
    public long Served => Volatile.Read(ref _served);

    /// <summary>Entries with a request in work, here or in the pool.</summary>
    public int UnderWay => Volatile.Read(ref _underWay);

    /// <summary>Gives an entry back with its reply; called by the threads of the pool.</summary>
    public void Return(FuseRingEntry entry)
    {
        FuseRingEntry? seen = Volatile.Read(ref _returned);
        while (true)
        {
            entry.Next = seen;
            FuseRingEntry? previous = Interlocked.CompareExchange(ref _returned, entry, seen);
            if (ReferenceEquals(previous, seen))
                break;
            seen = previous;
        }

        // The ring's thread looks once more for entries after it has said that it is going to wait.
        if (Interlocked.Exchange(ref _isWaiting, 0) != 0)
            Ring.Wake();
    }

    /// <summary>
    /// Serves until the session or the server ends, and whatever is under way with it: the kernel may fill an entry's
    /// memory until its transfer has ended.
    /// </summary>
    /// <param name="isStopping">Whether no more requests are to be begun.</param>
    /// <returns>0, or a negated error number after which the server must end.</returns>
    public int Serve(Func<bool> isStopping)
    {
        bool hasEnded = false;
        int failure = 0;
        while (true)
        {
            ReplyToReturned();
            bool isEnding = hasEnded || isStopping();
            if (isEnding && _underWay == 0)
                return failure;
            Interlocked.Exchange(ref _isWaiting, 1);
            FuseRingEvent happened = Volatile.Read(ref _returned) is null ? Ring.Receive() : default;
            Volatile.Write(ref _isWaiting, 0);
            switch (happened.Kind)
            {
                case FuseRingEventKind.Request when !isEnding:
                    Begin(happened.Entry!, happened.Value);
                    break;
                case FuseRingEventKind.Transferred:
                    End(happened.Entry!, happened.Value);
                    break;
                case FuseRingEventKind.Ended:
                    hasEnded = true;
                    break;
                case FuseRingEventKind.Failed:
                    hasEnded = true;
                    failure = happened.Value;
                    break;
                case FuseRingEventKind.Broken:
                    return happened.Value;
                default:
                    break;
            }
        }
    }

    private void Begin(FuseRingEntry entry, int length)
    {
        entry.Length = length;
        Volatile.Write(ref _underWay, _underWay + 1);
        Place?.Note(_underWay);
        FuseTransfer transfer = entry.Transfer;
        if (!session.Transfers.TryBegin(entry.Slot, length, transfer, entry.Slot.PayloadCapacity))
        {
            HandOver(entry);
        }
        else if (transfer.Kind == FuseTransferKind.Zeroes)
        {
            entry.Slot.ReplyPayload[..transfer.Length].Clear();
            End(entry, transfer.Length);
        }
        else if (transfer.IsCached && transfer.Length >= CopiedElsewhere)
        {
            session.Transfers.Abandon(entry.Slot, transfer);
            HandOver(entry);
        }
        else
        {
            Transfer(entry);
        }
    }

    private void Transfer(FuseRingEntry entry)
    {
        // One alone gains nothing from a place in the queue.
        if (_underWay == 1 && entry.Transfer.IsCached && !entry.Transfer.IsWrite)
        {
            int moved = Ring.TryReadNow(entry);
            if (moved == entry.Transfer.Length)
            {
                End(entry, moved);
                return;
            }
        }

        Ring.Transfer(entry);
    }

    private void End(FuseRingEntry entry, int moved)
    {
        if (moved == entry.Transfer.Length)
        {
            entry.Complete(session.Transfers.Complete(entry.Slot, entry.Transfer));
            Reply(entry);
            return;
        }

        session.Transfers.Abandon(entry.Slot, entry.Transfer);
        HandOver(entry);
    }

    private void HandOver(FuseRingEntry entry)
    {
        entry.Owner = this;
        pool.Add(entry);
    }

    private void ReplyToReturned()
    {
        if (Volatile.Read(ref _returned) is null)
            return;
        FuseRingEntry? entry = Interlocked.Exchange(ref _returned, null);
        while (entry is not null)
        {
            FuseRingEntry? next = entry.Next;
            Reply(entry);
            entry = next;
        }
    }

    private void Reply(FuseRingEntry entry)
    {
        Ring.Reply(entry);
        Volatile.Write(ref _served, _served + 1);
        Volatile.Write(ref _underWay, _underWay - 1);
    }
}
