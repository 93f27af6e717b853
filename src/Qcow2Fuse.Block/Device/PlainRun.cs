// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Ranges;

namespace Qcow2Fuse.Block.Device;

/// <summary>
/// A range of a device that is one run of bytes in an open file, for whoever reads or writes it there himself. It stays
/// where it is until <see cref="BlockDevice.EndPlain"/>.
/// </summary>
public readonly record struct PlainRun
{
    /// <summary>What the address of the caller's memory is a multiple of, in bytes.</summary>
    public const int MemoryAlignment = 4096;

    /// <summary>A descriptor that says: the range reads as zeroes, and there is nothing to transfer.</summary>
    public const int Zeroes = -1;

    /// <summary>The open file; for a read it may be <see cref="Zeroes"/> instead.</summary>
    public required int Descriptor { get; init; }

    /// <summary>Where the run begins in it, in bytes.</summary>
    public required long Offset { get; init; }

    /// <summary>Whether the file is read and written through the host's page cache.</summary>
    public bool IsCached { get; init; }

    /// <summary>
    /// Who keeps the run in its place, by <see cref="Token"/>, until its <see cref="BlockDevice.EndPlain"/>; null where
    /// it cannot move.
    /// </summary>
    public BlockDevice? Keeper { get; init; }

    /// <summary>The keeper's own business.</summary>
    public long Token { get; init; }

    /// <summary>Keeps other changes away from the blocks of the file, where that is needed.</summary>
    public RangeLocks.Holder Blocks { get; init; }
}
