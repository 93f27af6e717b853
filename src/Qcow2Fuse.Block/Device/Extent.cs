// SPDX-License-Identifier: MIT

namespace Qcow2Fuse.Block.Device;

/// <summary>What a run of a device consists of.</summary>
public enum ExtentKind
{
    /// <summary>Stored here as plain bytes.</summary>
    Data,

    /// <summary>Reads as zeroes, whatever lies below.</summary>
    Zero,

    /// <summary>Not stored here: the backing device answers, or zeroes where there is none.</summary>
    Unallocated,

    /// <summary>Stored here, compressed.</summary>
    Compressed,
}

/// <summary>A run of equal kind, as <see cref="BlockDevice.GetExtent"/> reports it.</summary>
/// <param name="Offset">Guest offset of its first byte.</param>
/// <param name="Length">Its length in bytes, at least 1.</param>
/// <param name="Kind">What it consists of.</param>
/// <param name="HostOffset">
/// Where its bytes lie in the file, −1 where they lie nowhere, are compressed or encrypted.
/// </param>
/// <param name="Depth">How many layers below the asked device the answer comes from; 0 is the device itself.</param>
public readonly record struct Extent(long Offset, long Length, ExtentKind Kind, long HostOffset, int Depth);
