// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>The part of a disk that a file shows.</summary>
/// <param name="Start">Where it begins on the disk, in bytes.</param>
/// <param name="Length">Its length in bytes; null for all up to the end of the disk.</param>
internal readonly record struct DiskWindow(long Start, long? Length)
{
    /// <summary>All of a disk.</summary>
    public static DiskWindow Whole => new(0, null);

    /// <summary>Bytes that it shows of a disk of a length.</summary>
    public long LengthOn(long disk)
    {
        long left = Math.Max(disk - Start, 0);
        return Math.Min(Length ?? left, left);
    }
}
