// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>What changes when a file changes, or another file gets its name.</summary>
/// <param name="ModifiedTicks">Time of its last change in ticks of UTC.</param>
/// <param name="Length">Its size in bytes; −1 where it does not exist.</param>
/// <param name="Inode">Its number in its file system.</param>
internal readonly record struct FileStamp(long ModifiedTicks, long Length, ulong Inode)
{
    /// <summary>The stamp of a file; an impossible one where there is none.</summary>
    public static FileStamp Of(FileStatus? status) => status is { } known
        ? new FileStamp(known.ModifiedTicks, known.Size, known.Inode)
        : new FileStamp(DateTime.UnixEpoch.Ticks, -1, 0);

    /// <summary>The stamp of what is in a place; an impossible one for what cannot be looked at.</summary>
    public static FileStamp Of(ImagePlace place)
    {
        try
        {
            return Of(place.Look());
        }
        catch (BlockException)
        {
            // Whoever opens it is told why.
            return Of(status: null);
        }
    }
}
