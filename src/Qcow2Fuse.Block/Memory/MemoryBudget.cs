// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Memory;

/// <summary>
/// Memory for metadata whose size images decide: their tables, not the caches, which have bounds of their own. All
/// images that share a budget have it together, so that no number of them takes more. May be used from all threads.
/// </summary>
/// <param name="bytes">What there is.</param>
public sealed class MemoryBudget(long bytes)
{
    /// <summary>
    /// What memory of the runtime counts, which ends earlier than that of the system: so many bytes for each.
    /// </summary>
    public const int ManagedFactor = 2;

    private long _taken;

    /// <summary>A budget without end, for whoever opens one image and ends.</summary>
    public static MemoryBudget Unlimited { get; } = new(long.MaxValue);

    /// <summary>Bytes that are taken now.</summary>
    public long Taken => Volatile.Read(ref _taken);

    /// <summary>Takes memory until the charge is disposed.</summary>
    /// <param name="count">Bytes.</param>
    /// <param name="name">The image that needs it.</param>
    /// <param name="what">What it is for, such as "its L1 table".</param>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NoMemory"/>: there is not so much left.</exception>
    public MemoryCharge Take(long count, string name, string what)
    {
        MemoryCharge charge = new(this);
        charge.Grow(count, name, what);
        return charge;
    }

    internal void Add(long count, string name, string what)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        long taken = Volatile.Read(ref _taken);
        while (count <= bytes - taken)
        {
            // Nothing is taken that is not there, not even for a moment: who is refused keeps nobody else from having
            // what is left.
            long seen = Interlocked.CompareExchange(ref _taken, taken + count, taken);
            if (seen == taken)
                return;
            taken = seen;
        }

        long left = Math.Max(bytes - taken, 0);
        throw new BlockException(
            BlockErrorKind.NoMemory,
            string.Create(
                CultureInfo.InvariantCulture,
                $"{name}: {what} would take {Mebibytes(count)} MiB of memory, of {Mebibytes(bytes)} MiB for metadata "
                + $"{left >> 20} MiB are left"),
            cause: FailureCode.MetadataMemory);
    }

    internal void Owe(long count) => Interlocked.Add(ref _taken, count);

    internal void Remove(long count) => Interlocked.Add(ref _taken, -count);

    private static long Mebibytes(long count) => (count + (1 << 20) - 1) >> 20;
}

/// <summary>What was taken of a <see cref="MemoryBudget"/>. Its methods are called by one thread at a time.</summary>
public sealed class MemoryCharge : IDisposable
{
    private readonly MemoryBudget _budget;
    private long _taken;

    internal MemoryCharge(MemoryBudget budget) => _budget = budget;

    /// <summary>Takes more.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NoMemory"/>; what was taken before stays.
    /// </exception>
    public void Grow(long count, string name, string what)
    {
        _budget.Add(count, name, what);
        _taken += count;
    }

    /// <summary>
    /// Takes more whether or not it is left: for what an image that is open needs to go on, and that the work done on
    /// it bounds. Others find that much less.
    /// </summary>
    /// <param name="count">Bytes, not negative.</param>
    public void Owe(long count)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        _budget.Owe(count);
        _taken += count;
    }

    /// <summary>Bytes taken.</summary>
    public long Taken => _taken;

    /// <summary>Gives back what is above <paramref name="count"/> bytes.</summary>
    public void Shrink(long count)
    {
        if (_taken <= count)
            return;
        _budget.Remove(_taken - count);
        _taken = count;
    }

    /// <inheritdoc/>
    public void Dispose() => Shrink(0);
}
