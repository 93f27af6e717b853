// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Uring;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>
/// Where the thread of a ring runs: on the processor its requests come from while there are few of them, since nothing
/// has to be woken on another one; on any other while many wait, so that the thread and the program that makes them
/// work at the same time. Left to itself the system keeps both on one processor, whatever waits.
/// </summary>
internal sealed class RingPlace
{
    private const int Period = 256;
    private const int ManyUnderWay = 4;
    private const int FewUnderWay = 2;

    private readonly int _processor;
    private readonly ulong[] _others;
    private int _requests;
    private long _underWay;
    private bool _isFree;

    private RingPlace(int processor, ulong[] others)
    {
        _processor = processor;
        _others = others;
    }

    /// <summary>
    /// Keeps the calling thread, which is the ring's, on a processor. Not permitted where the process is kept off it;
    /// requests then come from it all the same.
    /// </summary>
    public static RingPlace At(int processor)
    {
        RingPlace place = new(processor, Without(processor, Processors.Allowed()));
        _ = Processors.TryPin(processor);
        return place;
    }

    /// <summary>Called by the ring's thread for each request, with how many it has under way.</summary>
    public void Note(int underWay)
    {
        _underWay += underWay;
        if (++_requests < Period)
            return;
        long average = _underWay / Period;
        _requests = 0;
        _underWay = 0;
        if (!_isFree && average >= ManyUnderWay)
        {
            _isFree = true;
            _ = Processors.TryRunOn(_others);
        }
        else if (_isFree && average < FewUnderWay)
        {
            _isFree = false;
            _ = Processors.TryPin(_processor);
        }
    }

    /// <summary>The processors but one; all where there is no other.</summary>
    private static ulong[] Without(int processor, ulong[] allowed)
    {
        ulong[] others = [.. allowed];
        others[processor / 64] &= ~(1UL << (processor % 64));
        return others.AsSpan().ContainsAnyExcept(0UL) ? others : allowed;
    }
}
