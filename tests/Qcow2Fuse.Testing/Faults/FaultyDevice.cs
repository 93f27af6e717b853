// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Testing.Faults;

/// <summary>Which requests fail and how.</summary>
public sealed record FaultRule
{
    /// <summary>The kind of request it is about.</summary>
    public required BlockOp Op { get; init; }

    /// <summary>The first matching request it hits, counted from 1.</summary>
    public int Nth { get; init; } = 1;

    /// <summary>How many matching requests in a row it hits.</summary>
    public int Times { get; init; } = 1;

    /// <summary>Only requests that overlap [Offset, Offset + Length) match; flushes and resizes match always.</summary>
    public long Offset { get; init; }

    /// <summary>Length of the range in bytes.</summary>
    public long Length { get; init; } = long.MaxValue;

    /// <summary>The failure: <see cref="BlockErrorKind.Io"/>, <see cref="BlockErrorKind.NoSpace"/> ...</summary>
    public BlockErrorKind Error { get; init; } = BlockErrorKind.Io;

    /// <summary>Bytes of a write that reach the device before it fails: a torn write. 0 for none.</summary>
    public int TornBytes { get; init; }

    /// <summary>
    /// Whether half of a read, write, zeroing or discard is done before it fails, as by a system call that falls short.
    /// </summary>
    public bool IsShort { get; init; }

    /// <summary>
    /// A torn or short write ends at a file offset that is a multiple of this: 512 where sectors do not tear.
    /// </summary>
    public int TornAlignment { get; init; } = 1;
}

/// <summary>One request held in flight by <see cref="FaultyDevice.Hold"/>.</summary>
public sealed class HeldRequest : IDisposable
{
    private readonly TaskCompletionSource _arrived = new();
    private readonly TaskCompletionSource _released = new();

    internal HeldRequest(FaultRule match, bool afterEffect)
    {
        Match = match;
        AfterEffect = afterEffect;
    }

    /// <summary>Whether the request has arrived and waits.</summary>
    public bool HasArrived => _arrived.Task.IsCompleted;

    internal FaultRule Match { get; }

    internal bool AfterEffect { get; }

    /// <summary>Waits until the request is there; throws <see cref="TimeoutException"/> where it never comes.</summary>
    public void WaitUntilHeld()
    {
        if (!_arrived.Task.Wait(Eventually.Patience))
            throw new TimeoutException($"no {Match.Op} request arrived to be held");
    }

    /// <summary>Lets the request go on.</summary>
    public void Release() => _released.TrySetResult();

    /// <summary>Lets the request go on if it still waits.</summary>
    public void Dispose() => Release();

    internal void Enter()
    {
        _arrived.TrySetResult();
        if (!_released.Task.Wait(2 * Eventually.Patience))
            throw new TimeoutException($"a held {Match.Op} request was never released");
    }
}

/// <summary>
/// Fails chosen requests of the device below and holds chosen requests in flight. Counts what passes. Rules may be
/// added at any time and count from then on.
/// </summary>
public sealed class FaultyDevice(BlockDevice child) : PassThroughDevice(child)
{
    private readonly List<(FaultRule Rule, int[] Seen)> _rules = [];
    private readonly List<(HeldRequest Held, int[] Seen)> _holds = [];
    private readonly long[] _counts = new long[Enum.GetValues<BlockOp>().Length];
    private readonly Lock _lock = new();

    /// <summary>Whether rules apply and requests are counted; turned off while a test looks at the result.</summary>
    public bool Enabled { get; set; } = true;

    /// <summary>How many requests failed on purpose.</summary>
    public int FailureCount { get; private set; }

    /// <summary>How many requests of a kind arrived, the failed ones included.</summary>
    public long CountOf(BlockOp op)
    {
        lock (_lock)
            return _counts[(int)op];
    }

    /// <summary>Sets all counters to zero.</summary>
    public void ResetCounts()
    {
        lock (_lock)
            Array.Clear(_counts);
    }

    /// <summary>Adds a rule.</summary>
    public void Fail(FaultRule rule)
    {
        lock (_lock)
            _rules.Add((rule, [0]));
    }

    /// <summary>Removes all rules; held requests stay held.</summary>
    public void Heal()
    {
        lock (_lock)
            _rules.Clear();
    }

    /// <summary>
    /// Holds the <paramref name="nth"/> request of a kind that overlaps a range: before it reaches the device, or
    /// with <paramref name="afterEffect"/> after that but before it returns.
    /// </summary>
    public HeldRequest Hold(
        BlockOp op, int nth = 1, long offset = 0, long length = long.MaxValue, bool afterEffect = false)
    {
        HeldRequest held = new(new FaultRule { Op = op, Nth = nth, Offset = offset, Length = length }, afterEffect);
        lock (_lock)
            _holds.Add((held, [0]));
        return held;
    }

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        HeldRequest? held = Enter(BlockOp.Read, offset, destination.Length, out FaultRule? fault);
        if (fault is not null)
        {
            if (fault.IsShort)
                Child.Read(offset, destination[..(destination.Length / 2)]);
            throw Failure(fault);
        }

        Child.Read(offset, destination);
        held?.Enter();
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        HeldRequest? held = Enter(BlockOp.Write, offset, source.Length, out FaultRule? fault);
        if (fault is not null)
        {
            long end = offset + (fault.IsShort ? source.Length / 2 : Math.Min(fault.TornBytes, source.Length));
            end -= end % fault.TornAlignment;
            if (end > offset)
                Child.Write(offset, source[..(int)(end - offset)]);
            throw Failure(fault);
        }

        Child.Write(offset, source);
        held?.Enter();
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        HeldRequest? held = Enter(BlockOp.WriteZeroes, offset, length, out FaultRule? fault);
        if (fault is not null)
        {
            if (fault.IsShort)
                Child.WriteZeroes(offset, length / 2, mayUnmap);
            throw Failure(fault);
        }

        Child.WriteZeroes(offset, length, mayUnmap);
        held?.Enter();
    }

    /// <inheritdoc/>
    public override void Discard(long offset, long length)
    {
        HeldRequest? held = Enter(BlockOp.Discard, offset, length, out FaultRule? fault);
        if (fault is not null)
        {
            if (fault.IsShort)
                Child.Discard(offset, length / 2);
            throw Failure(fault);
        }

        Child.Discard(offset, length);
        held?.Enter();
    }

    /// <inheritdoc/>
    public override void Resize(long length)
    {
        HeldRequest? held = Enter(BlockOp.Resize, 0, long.MaxValue, out FaultRule? fault);
        if (fault is not null)
            throw Failure(fault);
        Child.Resize(length);
        held?.Enter();
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        HeldRequest? held = Enter(BlockOp.Flush, 0, long.MaxValue, out FaultRule? fault);
        if (fault is not null)
            throw Failure(fault);
        Child.Flush();
        held?.Enter();
    }

    private static bool Overlaps(FaultRule rule, long offset, long length) =>
        offset < (rule.Length > long.MaxValue - rule.Offset ? long.MaxValue : rule.Offset + rule.Length)
        && rule.Offset < (length > long.MaxValue - offset ? long.MaxValue : offset + length);

    /// <summary>Counts the request, waits where it is held first, and returns the hold that comes after it.</summary>
    private HeldRequest? Enter(BlockOp op, long offset, long length, out FaultRule? fault)
    {
        HeldRequest? found = null;
        fault = null;
        lock (_lock)
        {
            if (!Enabled)
                return null;
            _counts[(int)op]++;
            foreach ((FaultRule rule, int[] seen) in _rules)
            {
                if (rule.Op != op || !Overlaps(rule, offset, length))
                    continue;
                seen[0]++;
                if (seen[0] >= rule.Nth && seen[0] - rule.Nth < rule.Times)
                    fault ??= rule;
            }

            foreach ((HeldRequest held, int[] seen) in _holds)
            {
                if (held.Match.Op == op && Overlaps(held.Match, offset, length) && ++seen[0] == held.Match.Nth)
                    found ??= held;
            }

            if (fault is not null)
                FailureCount++;
        }

        if (found is { AfterEffect: false })
        {
            found.Enter();
            return null;
        }

        return found;
    }

    private BlockException Failure(FaultRule rule) =>
        new(rule.Error, $"{Name}: injected {rule.Error} at {rule.Op}");
}
