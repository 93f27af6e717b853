// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>
/// Something whose pages the kernel may hold, and which changes behind the kernel's back. One per node.
/// </summary>
/// <param name="node">Number of the node.</param>
public sealed class FuseCachedNode(ulong node)
{
    /// <summary>Number of the node.</summary>
    public ulong Node { get; } = node;

    // All of it belongs to the invalidator that the node is queued in, and its lock.
    internal FuseCachedNode? Next { get; set; }

    internal bool IsQueued { get; set; }

    /// <summary>The number of the first request that the queued range is of.</summary>
    internal long Ticket { get; set; }

    internal long From { get; set; }

    internal long To { get; set; }
}

/// <summary>
/// Tells the kernel which pages of a file are out of date (FUSE_NOTIFY_INVAL_INODE), from a thread of its own.
/// </summary>
/// <remarks>
/// The kernel waits within the notification for pages that are being read or written, and so for requests that a
/// worker has to answer: a worker that sent one could wait for itself. Queued ranges of a node are joined, so the
/// queue needs no memory and never overflows; to drop more pages than necessary costs time only. What is queued when
/// the server ends is not sent, and never counts as delivered.
/// </remarks>
public sealed unsafe class FuseInvalidator : IDisposable
{
    private const int StackSize = 256 * 1024;
    private const int MaxWaitingWorkers = 4;

    private readonly IFuseTransport _transport;
    private readonly object _lock = new();
    private Thread? _thread;
    private FuseCachedNode? _first;
    private FuseCachedNode? _last;
    private long _requested;
    private long _queued;
    private long _delivered;
    private int _waitingWorkers;
    private bool _ended;

    internal FuseInvalidator(IFuseTransport transport) => _transport = transport;

    /// <summary>Notifications that the kernel took, or did not need.</summary>
    public long Sent { get; private set; }

    /// <summary>Notifications that the kernel refused.</summary>
    public long Refused { get; private set; }

    /// <summary>Up to which number the kernel has done what was asked for.</summary>
    public long Delivered => Volatile.Read(ref _delivered);

    /// <summary>
    /// Asks for the pages of a range, and the attributes of the node, to be dropped. The kernel writes those first that
    /// were changed through mapped memory. Returns at once and allocates nothing.
    /// </summary>
    /// <returns>The number that <see cref="Delivered"/> reaches when the kernel has done it.</returns>
    public long Invalidate(FuseCachedNode node, long offset, long length)
    {
        lock (_lock)
        {
            _requested++;
            if (_ended)
                return _requested;
            _queued = _requested;
            long end = length > long.MaxValue - offset ? long.MaxValue : offset + length;
            if (node.IsQueued)
            {
                node.From = Math.Min(node.From, offset);
                node.To = Math.Max(node.To, end);
                return _requested;
            }

            node.From = offset;
            node.To = end;
            node.IsQueued = true;
            node.Ticket = _requested;
            if (_last is null)
                _first = node;
            else
                _last.Next = node;
            _last = node;
            Monitor.PulseAll(_lock);
            return _requested;
        }
    }

    /// <summary>
    /// Waits until the kernel has done what was asked for before, at most <paramref name="timeout"/>. Not for workers:
    /// the kernel may need them to get on.
    /// </summary>
    /// <returns>Whether everything was delivered.</returns>
    public bool WaitDelivered(TimeSpan timeout)
    {
        lock (_lock)
            return WaitLocked(_requested, timeout);
    }

    /// <summary>Waits until <see cref="Delivered"/> reaches a number, at most <paramref name="timeout"/>.</summary>
    /// <returns>Whether it has.</returns>
    public bool WaitDelivered(long number, TimeSpan timeout)
    {
        if (Delivered >= number)
            return true;
        lock (_lock)
            return WaitLocked(number, timeout);
    }

    /// <summary>
    /// As <see cref="WaitDelivered(TimeSpan)"/>, for a worker; false at once where so many wait that the kernel could
    /// want for one.
    /// </summary>
    public bool TryWaitDelivered(TimeSpan timeout)
    {
        lock (_lock)
        {
            long wanted = _requested;
            if (_delivered >= wanted)
                return true;
            if (_waitingWorkers >= MaxWaitingWorkers)
                return false;
            _waitingWorkers++;
            try
            {
                return WaitLocked(wanted, timeout);
            }
            finally
            {
                _waitingWorkers--;
            }
        }
    }

    /// <summary>
    /// Ends the thread after the notification it is at. To be called while workers still serve: the notification may
    /// need them.
    /// </summary>
    public void Dispose()
    {
        lock (_lock)
        {
            _ended = true;
            Monitor.PulseAll(_lock);
        }

        _thread?.Join();
        _thread = null;
    }

    internal void Start()
    {
        _thread = new Thread(Run, StackSize) { IsBackground = true, Name = "fuse-notify" };
        _thread.Start();
    }

    private void Run()
    {
        while (true)
        {
            FuseNotifyInvalidate message = default;
            lock (_lock)
            {
                while (_first is null && !_ended)
                    Monitor.Wait(_lock);
                if (_ended || _first is null)
                    return;
                FuseCachedNode node = _first;
                _first = node.Next;
                if (_first is null)
                    _last = null;
                node.Next = null;
                node.IsQueued = false;
                message.Node = node.Node;
                message.Offset = node.From;
                message.Length = node.To == long.MaxValue ? 0 : node.To - node.From;
            }

            int result = Send(ref message);
            lock (_lock)
            {
                // A kernel that does not know the node, or has lost the mount, holds no pages of it.
                if (result is >= 0 or -Errno.ENOENT or -Errno.ENODEV or -Errno.ENOTCONN)
                    Sent++;
                else
                    Refused++;

                // The queue is in the order of the first requests, so all before that of the next node are done.
                Volatile.Write(ref _delivered, _first is null ? _queued : _first.Ticket - 1);
                Monitor.PulseAll(_lock);
            }
        }
    }

    private bool WaitLocked(long wanted, TimeSpan timeout)
    {
        long end = Environment.TickCount64 + (long)timeout.TotalMilliseconds;
        while (_delivered < wanted && !_ended)
        {
            long left = end - Environment.TickCount64;
            if (left <= 0)
                break;
            Monitor.Wait(_lock, TimeSpan.FromMilliseconds(left));
        }

        return _delivered >= wanted;
    }

    private int Send(ref FuseNotifyInvalidate message)
    {
        message.Header = new FuseOutHeader
        {
            Length = (uint)sizeof(FuseNotifyInvalidate),
            Error = FuseNotifyInvalidate.Code,
        };
        return _transport.Notify(MemoryMarshal.AsBytes(new ReadOnlySpan<FuseNotifyInvalidate>(in message)));
    }
}
