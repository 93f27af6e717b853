// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Errors;

/// <summary>What was asked of a device.</summary>
public enum BlockOperation
{
    /// <summary>Bytes are read.</summary>
    Read,

    /// <summary>Bytes are written.</summary>
    Write,

    /// <summary>A range is zeroed.</summary>
    Zero,

    /// <summary>What was written is made durable.</summary>
    Flush,

    /// <summary>What a range is made of is looked up.</summary>
    Search,

    /// <summary>The size is changed.</summary>
    Resize,
}

/// <summary>A request that failed.</summary>
/// <param name="Operation">What was asked.</param>
/// <param name="Offset">Where it begins in the file, in bytes; 0 for what has no place.</param>
/// <param name="Length">Its length in bytes, or the new size.</param>
public readonly record struct BlockRequest(BlockOperation Operation, long Offset = 0, long Length = 0)
{
    /// <summary>The request as messages have it: "read of 4096 bytes at 0".</summary>
    public override string ToString() => Operation switch
    {
        BlockOperation.Read => $"read of {Length} bytes at {Offset}",
        BlockOperation.Write => $"write of {Length} bytes at {Offset}",
        BlockOperation.Zero => $"zeroing of {Length} bytes at {Offset}",
        BlockOperation.Search => $"search for data at {Offset}",
        BlockOperation.Resize => $"resize to {Length} bytes",
        _ => "flush",
    };
}
