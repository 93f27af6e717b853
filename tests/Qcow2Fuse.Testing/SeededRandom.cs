// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Testing;

/// <summary>
/// Random numbers that depend on the seed alone, now and on every other version of the runtime: xorshift64* seeded
/// through splitmix64.
/// </summary>
public sealed class SeededRandom
{
    private ulong _state;

    /// <summary>Starts the sequence of <paramref name="seed"/>.</summary>
    public SeededRandom(ulong seed)
    {
        _state = Mix(seed);
        if (_state == 0)
            _state = 1;
    }

    /// <summary>The splitmix64 finaliser: a different, evenly spread number for every number.</summary>
    public static ulong Mix(ulong value)
    {
        value += 0x9E3779B97F4A7C15;
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
        return value ^ (value >> 31);
    }

    /// <summary>64 random bits.</summary>
    public ulong NextBits()
    {
        _state ^= _state >> 12;
        _state ^= _state << 25;
        _state ^= _state >> 27;
        return _state * 0x2545F4914F6CDD1D;
    }

    /// <summary>A number from 0 to <paramref name="limit"/> − 1.</summary>
    public long Below(long limit) => (long)(NextBits() % (ulong)limit);

    /// <summary>A number from 0 to <paramref name="limit"/> − 1.</summary>
    public int Below(int limit) => (int)(NextBits() % (ulong)limit);

    /// <summary>True in <paramref name="percent"/> of 100 cases.</summary>
    public bool Chance(int percent) => Below(100) < percent;

    /// <summary>One of the given values.</summary>
    public T Pick<T>(params ReadOnlySpan<T> values) => values[Below(values.Length)];
}
