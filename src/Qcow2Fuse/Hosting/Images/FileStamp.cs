// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting;

/// <summary>What changes when a file changes.</summary>
/// <param name="ModifiedTicks">Time of its last change in ticks of UTC.</param>
/// <param name="Length">Its size in bytes; −1 where it does not exist.</param>
internal readonly record struct FileStamp(long ModifiedTicks, long Length)
{
    /// <summary>The stamp of a file; of one that does not exist, or cannot be looked at, an impossible one.</summary>
    public static FileStamp Of(string path)
    {
        FileInfo file = new(path);
        return file.Exists
            ? new FileStamp(file.LastWriteTimeUtc.Ticks, file.Length)
            : new FileStamp(DateTime.UnixEpoch.Ticks, -1);
    }
}
