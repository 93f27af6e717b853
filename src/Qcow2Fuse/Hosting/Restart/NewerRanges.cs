// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Restart;

/// <summary>
/// The ranges of a disk that were changed through one of its files while the kernel may hold older pages of another.
/// What the kernel writes out of such a page is kept away from them, until it has dropped the page.
/// </summary>
/// <remarks>
/// <para>
/// No range is ever forgotten before its time: where there is no place for one more, two are joined, and what lies
/// between them is kept from the other files' pages too.
/// </para>
/// <para>
/// In native memory, or in memory that outlives the process. Little-endian. 0: count, 16: entries of start, end, number
/// of the file's node, number of the notification. Whenever the process is killed, every range that counts is there.
/// The lock is held for no other work.
/// </para>
/// </remarks>
internal sealed class NewerRanges : IDisposable
{
    /// <summary>Bytes of memory it takes.</summary>
    public const int Length = EntriesAt + (CountMax * EntryBytes);

    private const int CountMax = 1024;
    private const int EntriesAt = 16;
    private const int EntryBytes = 32;

    /// <summary>Less than this, one change has place for what it comes to.</summary>
    private const int Comfortable = CountMax * 3 / 4;

    private readonly Lock _lock = new();
    private readonly SharedPage? _page;
    private readonly int _at;
    private readonly MemoryBudget? _memory;
    private readonly string _name = "";
    private NativeTable<Entry>? _own;
    private int _count;

    /// <summary>Ranges in memory of their own.</summary>
    /// <param name="memory">What it takes is taken of it.</param>
    /// <param name="name">The image.</param>
    public NewerRanges(MemoryBudget memory, string name)
    {
        _memory = memory;
        _name = name;
    }

    /// <summary>Ranges in a memory that a process shares with the next one.</summary>
    /// <param name="page">The memory.</param>
    /// <param name="at">Where they begin, a multiple of 8.</param>
    public NewerRanges(SharedPage page, int at)
    {
        _page = page;
        _at = at;

        // The kernel has been told of none of them by this process.
        _count = (int)Math.Clamp(page.Long(at), 0, CountMax);
        foreach (ref Entry entry in Entries[.._count])
            entry.Ticket = long.MaxValue;
    }

    /// <summary>Whether there are any.</summary>
    public bool Any => Volatile.Read(ref _count) > 0;

    /// <summary>Whether one more change can be added without joining it with others.</summary>
    public bool HasRoom => Volatile.Read(ref _count) < Comfortable;

    private Span<Entry> Entries => _page is not null
        ? MemoryMarshal.Cast<byte, Entry>(_page.Bytes.Slice(_at + EntriesAt, CountMax * EntryBytes))
        : _own!.Span;

    /// <summary>Takes the memory. To be called before a range can be added.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NoMemory"/>.</exception>
    public void Prepare()
    {
        lock (_lock)
        {
            if (_page is null)
                _own ??= new NativeTable<Entry>(CountMax, _memory!, _name, "what is changed through several files");
        }
    }

    /// <summary>Adds a range.</summary>
    /// <param name="start">Where it begins.</param>
    /// <param name="end">Where it ends.</param>
    /// <param name="node">The file through which it was changed, whose own pages are as new.</param>
    /// <param name="ticket">The notification after which the kernel holds no older page of the other files.</param>
    /// <param name="delivered">Notifications that the kernel has done.</param>
    public void Add(long start, long end, ulong node, long ticket, long delivered)
    {
        lock (_lock)
        {
            ForgetLocked(delivered);
            if (_count == CountMax)
                Join(start, end, node, ticket);
            else
                Append(new Entry { Start = start, End = end, Node = node, Ticket = ticket });
        }
    }

    /// <summary>
    /// The first run of bytes from <paramref name="at"/> on that was not changed through another file than
    /// <paramref name="node"/>; empty, at <paramref name="end"/>, where there is none before that.
    /// </summary>
    /// <param name="at">Where the run may begin.</param>
    /// <param name="end">Where it ends at the latest.</param>
    /// <param name="node">The file whose pages are written.</param>
    /// <param name="delivered">Notifications that the kernel has done.</param>
    public (long Start, long End) Outside(long at, long end, ulong node, long delivered)
    {
        lock (_lock)
        {
            ForgetLocked(delivered);
            if (_count == 0)
                return (at, end);
            ReadOnlySpan<Entry> entries = Entries[.._count];
            while (at < end && EndOfRangeAt(entries, at, node) is var covered && covered > at)
                at = covered;
            if (at >= end)
                return (end, end);
            long next = end;
            foreach (ref readonly Entry entry in entries)
            {
                if (entry.Node != node && entry.Start > at)
                    next = Math.Min(next, entry.Start);
            }

            return (at, next);
        }
    }

    /// <summary>Forgets all ranges whose notification the kernel has done.</summary>
    public void Forget(long delivered)
    {
        if (!Any)
            return;
        lock (_lock)
            ForgetLocked(delivered);
    }

    /// <summary>
    /// The kernel has been asked to drop all pages of an earlier process: after this notification it holds none that is
    /// older than a range of that.
    /// </summary>
    public void EndEarlierWith(long ticket)
    {
        lock (_lock)
        {
            if (_count == 0)
                return;
            foreach (ref Entry entry in Entries[.._count])
            {
                if (entry.Ticket == long.MaxValue)
                    entry.Ticket = ticket;
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_own is null)
                return;
            Count(0);
            _own.Dispose();
            _own = null;
        }
    }

    private void ForgetLocked(long delivered)
    {
        if (_count == 0)
            return;

        // An entry is written over only where it has been forgotten or has moved.
        Span<Entry> entries = Entries[.._count];
        int kept = 0;
        for (int i = 0; i < entries.Length; i++)
        {
            if (entries[i].Ticket <= delivered)
                continue;
            if (kept < i)
                entries[kept] = entries[i];
            kept++;
        }

        Count(kept);
    }

    private void Append(in Entry entry)
    {
        Entries[_count] = entry;
        Thread.MemoryBarrier();
        Count(_count + 1);
    }

    private void Join(long start, long end, ulong node, long ticket)
    {
        Span<Entry> entries = Entries;
        int best = -1;
        long least = long.MaxValue;
        for (int i = 0; i < entries.Length; i++)
        {
            long grown = Math.Max(entries[i].End, end) - Math.Min(entries[i].Start, start)
                - (entries[i].End - entries[i].Start);
            if (entries[i].Node == node && grown < least)
                (best, least) = (i, grown);
        }

        if (best < 0)
        {
            // All were changed through other files: the page of any file is kept from the nearest one then.
            best = 0;
            entries[best].Node = 0;
        }

        ref Entry joined = ref entries[best];
        joined.Start = Math.Min(joined.Start, start);
        joined.End = Math.Max(joined.End, end);
        joined.Ticket = Math.Max(joined.Ticket, ticket);
    }

    private void Count(int count)
    {
        Volatile.Write(ref _count, count);
        if (_page is not null)
            Volatile.Write(ref _page.Long(_at), count);
    }

    private static long EndOfRangeAt(ReadOnlySpan<Entry> entries, long at, ulong node)
    {
        foreach (ref readonly Entry entry in entries)
        {
            if (entry.Node != node && entry.Start <= at && at < entry.End)
                return entry.End;
        }

        return at;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct Entry
    {
        public long Start;
        public long End;
        public ulong Node;
        public long Ticket;
    }
}
