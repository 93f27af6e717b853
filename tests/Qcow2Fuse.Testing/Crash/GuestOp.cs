// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>What the guest does in a crash run.</summary>
public enum GuestOpKind
{
    /// <summary>Writes bytes nobody else writes.</summary>
    Write,

    /// <summary>Writes zeroes and keeps the storage.</summary>
    ZeroKeep,

    /// <summary>Writes zeroes and lets the storage go.</summary>
    ZeroUnmap,

    /// <summary>Discards.</summary>
    Discard,

    /// <summary>Makes durable what returned before.</summary>
    Flush,

    /// <summary>Closes the image and opens it again.</summary>
    Reopen,

    /// <summary>Changes the size of the disk to <see cref="GuestOp.Offset"/>.</summary>
    Resize,

    /// <summary>Makes a snapshot, named after <see cref="GuestOp.Number"/>.</summary>
    SnapshotCreate,

    /// <summary>Makes the disk what the snapshot with the index <see cref="GuestOp.Offset"/> holds.</summary>
    SnapshotApply,

    /// <summary>Removes the snapshot with the index <see cref="GuestOp.Offset"/>.</summary>
    SnapshotDelete,
}

/// <summary>One operation of the guest.</summary>
/// <param name="Number">Its number in the run, from 1; also the tag of its <see cref="Stamp"/>.</param>
/// <param name="Kind">What it does.</param>
/// <param name="Offset">First byte, or the new size, or the index of a snapshot.</param>
/// <param name="Length">Bytes; 0 where it changes none.</param>
public sealed record GuestOp(int Number, GuestOpKind Kind, long Offset, int Length)
{
    /// <summary>Operations of one round run at the same time, those of different rounds one after the other.</summary>
    public int Round { get; set; }

    /// <summary>The moment it was issued.</summary>
    public long Begin { get; set; } = long.MaxValue;

    /// <summary>The moment it returned.</summary>
    public long End { get; set; } = long.MaxValue;

    /// <summary>Whether it returned an error: each of its sectors may have changed or not.</summary>
    public bool HasFailed { get; set; }

    /// <summary>Whether it changes bytes of the disk.</summary>
    public bool ChangesData => Kind < GuestOpKind.Flush;

    /// <summary>Whether it changes the image as a whole, in one step and durably.</summary>
    public bool ChangesImage => Kind >= GuestOpKind.Resize;

    /// <inheritdoc/>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture,
        $"{Number}:{Kind}{Range} [{Begin}-{End}]{(HasFailed ? " failed" : string.Empty)}");

    private string Range => ChangesData
        ? string.Create(CultureInfo.InvariantCulture, $" 0x{Offset:x}+0x{Length:x}")
        : ChangesImage ? string.Create(CultureInfo.InvariantCulture, $" {Offset}") : string.Empty;
}
