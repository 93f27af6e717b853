// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Fuse.Transport;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>
/// Bounds how long requests may go over the tables of a disk. A few may take seconds, and the others must be short, so
/// that there are always workers for reads and writes.
/// </summary>
internal sealed class WalkLimits
{
    /// <summary>Walks that may be long at a time; there are many more workers.</summary>
    public const int LongMax = 4;

    private int _long;

    /// <summary>How long a walk may take that is one of the few.</summary>
    public TimeSpan LongTime { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>How long all others may take, and one that nobody waits for any more.</summary>
    public TimeSpan ShortTime { get; init; } = TimeSpan.FromMilliseconds(20);

    /// <summary>Begins a walk for the request that the calling thread serves; it is to be disposed.</summary>
    public Walk Begin()
    {
        bool isLong = Interlocked.Increment(ref _long) <= LongMax;
        if (!isLong)
            Interlocked.Decrement(ref _long);
        return new Walk(this, isLong, FuseCall.Current);
    }

    /// <summary>A long walk has ended.</summary>
    public void EndLong() => Interlocked.Decrement(ref _long);
}

/// <summary>A walk over the tables of a disk, for one request.</summary>
internal readonly ref struct Walk
{
    private readonly WalkLimits _limits;
    private readonly bool _isLong;
    private readonly FuseCall? _call;
    private readonly long _started;

    internal Walk(WalkLimits limits, bool isLong, FuseCall? call)
    {
        _limits = limits;
        _isLong = isLong;
        _call = call;
        _started = Stopwatch.GetTimestamp();
    }

    /// <summary>How long it may take.</summary>
    public TimeSpan Patience => _isLong ? _limits.LongTime : _limits.ShortTime;

    /// <summary>
    /// Whether it has to end between two steps, with what it has found. A signal that does not kill interrupts too, and
    /// must not spoil an answer that would come at once.
    /// </summary>
    public bool IsOver
    {
        get
        {
            return Stopwatch.GetElapsedTime(_started) >= Patience || IsInterrupted;
        }
    }

    /// <summary>How long it may still take.</summary>
    public TimeSpan Left
    {
        get
        {
            TimeSpan left = (_isLong ? _limits.LongTime : _limits.ShortTime) - Stopwatch.GetElapsedTime(_started);
            return left > TimeSpan.Zero ? left : TimeSpan.Zero;
        }
    }

    /// <summary>Whether nobody waits for the answer any more, since a while.</summary>
    public bool IsInterrupted =>
        _call is { IsInterrupted: true } && Stopwatch.GetElapsedTime(_started) >= _limits.ShortTime;

    public void Dispose()
    {
        if (_isLong)
            _limits.EndLong();
    }
}
