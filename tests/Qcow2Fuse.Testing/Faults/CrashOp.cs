// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Testing.Faults;

/// <summary>What a recorded operation did to the file.</summary>
public enum CrashOpKind
{
    /// <summary>Bytes were written.</summary>
    Write,

    /// <summary>A range was set to zeroes.</summary>
    WriteZeroes,

    /// <summary>A range was given back and reads as zeroes.</summary>
    Discard,

    /// <summary>The length was set.</summary>
    Resize,

    /// <summary>Everything that had completed before it began was made durable.</summary>
    Flush,
}

/// <summary>Hands out the moments of a run: every call is later than all calls before it.</summary>
public sealed class CrashClock
{
    private long _now;

    /// <summary>The latest moment that was handed out.</summary>
    public long Now => Interlocked.Read(ref _now);

    /// <summary>A new moment.</summary>
    public long Next() => Interlocked.Increment(ref _now);
}

/// <summary>One operation as <see cref="CrashDevice"/> recorded it.</summary>
public sealed class CrashOp
{
    /// <summary>Its position in the order in which the operations took effect.</summary>
    public required int Index { get; init; }

    /// <summary>What it did.</summary>
    public required CrashOpKind Kind { get; init; }

    /// <summary>First byte of the range, or the new length of a resize.</summary>
    public required long Offset { get; init; }

    /// <summary>Bytes in the range, 0 for a resize or flush.</summary>
    public required long Length { get; init; }

    /// <summary>The moment it was issued.</summary>
    public required long Begin { get; init; }

    /// <summary>The moment it returned; <see cref="long.MaxValue"/> while in flight.</summary>
    public long End { get; set; } = long.MaxValue;

    /// <summary>The first sector it touched.</summary>
    public int FirstSector { get; init; }

    /// <summary>The contents of the sectors it touched, as they were right after it.</summary>
    public int[] IdsAfter { get; init; } = [];

    /// <summary>Whether the length of the file changed.</summary>
    public bool ChangesLength { get; init; }

    /// <summary>The length of the file after it.</summary>
    public long LengthAfter { get; init; }

    /// <inheritdoc/>
    public override string ToString() => Kind switch
    {
        CrashOpKind.Flush => string.Create(CultureInfo.InvariantCulture, $"#{Index} flush"),
        CrashOpKind.Resize => string.Create(CultureInfo.InvariantCulture, $"#{Index} resize to {Offset}"),
        _ => string.Create(CultureInfo.InvariantCulture, $"#{Index} {Kind} 0x{Offset:x}+0x{Length:x}"),
    };
}
