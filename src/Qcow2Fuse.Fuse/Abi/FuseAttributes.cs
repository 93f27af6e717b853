// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse.Abi;

/// <summary>
/// A point in time as file systems keep it: seconds since 1970-01-01 UTC and nanoseconds, 0 to 999,999,999.
/// </summary>
public readonly record struct FuseTime(long Seconds, uint Nanoseconds)
{
    /// <summary>The present, in steps of 100 ns.</summary>
    public static FuseTime Now => FromUtc(DateTime.UtcNow);

    /// <summary>Converts a time in UTC.</summary>
    public static FuseTime FromUtc(DateTime utc)
    {
        long ticks = utc.Ticks - DateTime.UnixEpoch.Ticks;
        long seconds = Math.DivRem(ticks, TimeSpan.TicksPerSecond, out long rest);
        if (rest < 0)
        {
            seconds--;
            rest += TimeSpan.TicksPerSecond;
        }

        return new FuseTime(seconds, (uint)(rest * 100));
    }
}

/// <summary>What stat(2) says about a node.</summary>
public record struct FuseAttributes
{
    /// <summary>Bits of <see cref="Mode"/> that say what kind of node it is (S_IFMT).</summary>
    public const uint KindMask = 0xF000;

    /// <summary>S_IFDIR, to be combined with permissions in <see cref="Mode"/>.</summary>
    public const uint Directory = 0x4000;

    /// <summary>S_IFREG, to be combined with permissions in <see cref="Mode"/>.</summary>
    public const uint RegularFile = 0x8000;

    /// <summary>Number of the node, 1 for the root.</summary>
    public ulong Node { get; set; }

    /// <summary>Size in bytes.</summary>
    public long Size { get; set; }

    /// <summary>
    /// Storage in use in bytes, for st_blocks. cp(1) looks for holes only where this is below the size.
    /// </summary>
    public long AllocatedBytes { get; set; }

    /// <summary>Kind and permissions, as in S_IFREG | 0600.</summary>
    public uint Mode { get; set; }

    /// <summary>Number of names, at least 1.</summary>
    public uint Links { get; set; }

    /// <summary>Owner.</summary>
    public uint Uid { get; set; }

    /// <summary>Group.</summary>
    public uint Gid { get; set; }

    /// <summary>Preferred size of requests in bytes, for st_blksize.</summary>
    public uint BlockSize { get; set; }

    /// <summary>Time of the last read.</summary>
    public FuseTime Accessed { get; set; }

    /// <summary>Time of the last change of the content.</summary>
    public FuseTime Modified { get; set; }

    /// <summary>Time of the last change of the attributes.</summary>
    public FuseTime Changed { get; set; }

    /// <summary>How long the kernel may use name and attributes without asking; null for the server's timeout.
    /// </summary>
    public TimeSpan? CacheTimeout { get; set; }
}

/// <summary>A request to change attributes; what is null stays.</summary>
public readonly record struct FuseAttributeChange
{
    /// <summary>The open file the change was asked through, as for ftruncate(2).</summary>
    public ulong? Handle { get; init; }

    /// <summary>New size in bytes.</summary>
    public long? Size { get; init; }

    /// <summary>New permissions; the bits of <see cref="FuseAttributes.KindMask"/> are to be ignored.</summary>
    public uint? Mode { get; init; }

    /// <summary>New owner.</summary>
    public uint? Uid { get; init; }

    /// <summary>New group.</summary>
    public uint? Gid { get; init; }

    /// <summary>New time of the last read.</summary>
    public FuseTime? Accessed { get; init; }

    /// <summary>New time of the last change of the content.</summary>
    public FuseTime? Modified { get; init; }
}

/// <summary>What statfs(2) says.</summary>
public record struct FuseStatistics
{
    /// <summary>Unit of the three block counts in bytes; at least 512.</summary>
    public uint BlockSize { get; set; }

    /// <summary>All blocks.</summary>
    public ulong Blocks { get; set; }

    /// <summary>Free blocks.</summary>
    public ulong FreeBlocks { get; set; }

    /// <summary>Blocks free for ordinary users.</summary>
    public ulong AvailableBlocks { get; set; }

    /// <summary>All nodes.</summary>
    public ulong Nodes { get; set; }

    /// <summary>Free nodes.</summary>
    public ulong FreeNodes { get; set; }
}

/// <summary>What fallocate(2) is asked to do; the kernel sends other bits too.</summary>
[Flags]
public enum FuseAllocateMode : uint
{
    /// <summary>Reserve space, and grow the file where the range reaches past its end.</summary>
    Allocate = 0,

    /// <summary>FALLOC_FL_KEEP_SIZE.</summary>
    KeepSize = 0x01,

    /// <summary>FALLOC_FL_PUNCH_HOLE: the range reads as zeroes and gives its space back. With KeepSize.</summary>
    PunchHole = 0x02,

    /// <summary>FALLOC_FL_ZERO_RANGE: the range reads as zeroes.</summary>
    ZeroRange = 0x10,
}

/// <summary>What a seek looks for.</summary>
public enum FuseSeekKind
{
    /// <summary>SEEK_DATA: the first byte of data at or behind the offset.</summary>
    Data = 3,

    /// <summary>
    /// SEEK_HOLE: the first byte of a hole at or behind the offset; the end of the file counts as one.
    /// </summary>
    Hole = 4,
}
