// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Ranges;

namespace Qcow2Fuse.Block.Device;

/// <summary>What a plain run is.</summary>
public enum PlainRunKind
{
    /// <summary>Bytes of a file.</summary>
    File,

    /// <summary>Zeroes that are stored nowhere.</summary>
    Zeroes,
}

/// <summary>
/// A range of a device that is one run of bytes in an open file, for whoever reads or writes it there himself. It stays
/// where it is until <see cref="BlockDevice.EndPlain"/>.
/// </summary>
public readonly record struct PlainRun
{
    /// <summary>What the address of the caller's memory is a multiple of, in bytes.</summary>
    public const int MemoryAlignment = 4096;

    /// <summary>A run of a range that reads as zeroes, for reads alone: there is nothing to transfer.</summary>
    public static PlainRun Zeroes => new() { Kind = PlainRunKind.Zeroes, Descriptor = -1, Offset = 0 };

    /// <summary>What it is.</summary>
    public PlainRunKind Kind { get; init; }

    /// <summary>The open file, where it is one.</summary>
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
