// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Restart;

/// <summary>
/// The nodes that are open for writing, in memory that outlives the process: the kernel may hold pages of them that a
/// program has changed, and the next process has to know it before the first request.
/// </summary>
/// <remarks>
/// Little-endian. 0: what is known, 8: numbers of nodes, 0 for a free place. May be used from all threads; the earlier
/// process has ended when the next one looks.
/// </remarks>
internal sealed class WrittenNodes
{
    /// <summary>Bytes it takes.</summary>
    public const int Length = 4096;

    private const long AllAreThere = 1;
    private const long SomeAreMissing = 2;

    private readonly SharedPage _page;
    private readonly int _at;
    private readonly Lock _lock = new();

    /// <summary>The table in a memory that a process shares with the next one.</summary>
    /// <param name="page">The memory.</param>
    /// <param name="at">Where the table begins, a multiple of 8.</param>
    /// <param name="isNew">Whether there is none yet.</param>
    public WrittenNodes(SharedPage page, int at, bool isNew)
    {
        _page = page;
        _at = at;
        if (isNew)
            State = AllAreThere;
    }

    private long State
    {
        get => Volatile.Read(ref _page.Long(_at));
        set => Volatile.Write(ref _page.Long(_at), value);
    }

    private Span<long> Places => MemoryMarshal.Cast<byte, long>(_page.Bytes.Slice(_at, Length))[1..];

    /// <summary>Whether a node may be open for writing; true for all where that was not written down.</summary>
    public bool MayContain(ulong node) => State != AllAreThere || Places.Contains((long)node);

    /// <summary>A node is open for writing.</summary>
    public void Add(ulong node)
    {
        lock (_lock)
        {
            if (Places.Contains((long)node))
                return;
            int free = Places.IndexOf(0);
            if (free < 0)
                State = SomeAreMissing;
            else
                Volatile.Write(ref Places[free], (long)node);
        }
    }

    /// <summary>It is not any more.</summary>
    public void Remove(ulong node)
    {
        lock (_lock)
        {
            int place = Places.IndexOf((long)node);
            if (place >= 0)
                Volatile.Write(ref Places[place], 0);
        }
    }
}
