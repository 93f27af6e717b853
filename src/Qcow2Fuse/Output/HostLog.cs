// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;

namespace Qcow2Fuse.Output;

/// <summary>Everything a mounted image writes to its log, one event per message.</summary>
internal static partial class HostLog
{
    [LoggerMessage(1, LogLevel.Information, "mounted {Source} on {Directory}")]
    public static partial void Mounted(ILogger logger, string source, string directory);

    [LoggerMessage(2, LogLevel.Information, "unmounted {Image}")]
    public static partial void Unmounted(ILogger logger, string image);

    [LoggerMessage(3, LogLevel.Warning, "{Message}")]
    public static partial void OpenMessage(ILogger logger, string message);

    [LoggerMessage(4, LogLevel.Warning,
        "{File}: a change of the size was refused: the raw file has the size of the disk "
        + "(hint: -o resize lets it change)")]
    public static partial void ResizeRefused(ILogger logger, string file);

    [LoggerMessage(5, LogLevel.Error, "request failed: {Message}")]
    public static partial void RequestFailed(ILogger logger, string message);

    [LoggerMessage(6, LogLevel.Critical, "{Image}: the last flush failed, written data may be lost: {Message}")]
    public static partial void LastFlushFailed(ILogger logger, string image, string message);

    [LoggerMessage(8, LogLevel.Debug, "stopping on {Reason}")]
    public static partial void Stopping(ILogger logger, string reason);

    [LoggerMessage(9, LogLevel.Warning, "not shown as a disk: {Message}")]
    public static partial void NotAnImage(ILogger logger, string message);

    [LoggerMessage(10, LogLevel.Warning, "partitions are not shown: {Message}")]
    public static partial void NoPartitions(ILogger logger, string message);

    [LoggerMessage(11, LogLevel.Error, "{Directory}: cannot be read: {Message}")]
    public static partial void DirectoryFailed(ILogger logger, string directory, string message);

    [LoggerMessage(12, LogLevel.Error, "cannot unmount {Directory}: {Message}")]
    public static partial void UnmountFailed(ILogger logger, string directory, string message);

    [LoggerMessage(13, LogLevel.Information, "reloaded: nothing has changed")]
    public static partial void Reloaded(ILogger logger);

    [LoggerMessage(14, LogLevel.Critical, "{Image}: the daemon ends: {Message}")]
    public static partial void Died(ILogger logger, string image, string message);

    [LoggerMessage(15, LogLevel.Debug, "no control socket: {Reason}")]
    public static partial void NoControl(ILogger logger, string reason);

    [LoggerMessage(16, LogLevel.Warning, "the mount cannot be controlled any more: {Message}")]
    public static partial void ControlFailed(ILogger logger, string message);

    [LoggerMessage(17, LogLevel.Information, "{Statistics}")]
    public static partial void Statistics(ILogger logger, string statistics);

    [LoggerMessage(18, LogLevel.Information, "{Image}: {What}, as asked for by the control socket")]
    public static partial void Asked(ILogger logger, string image, string what);

    [LoggerMessage(19, LogLevel.Warning, "the service manager does not hear: {Message}")]
    public static partial void NotHeard(ILogger logger, string message);

    [LoggerMessage(20, LogLevel.Information, "no FUSE over io_uring, /dev/fuse serves: {Reason}")]
    public static partial void WithoutUring(ILogger logger, string reason);

    [LoggerMessage(21, LogLevel.Warning, "restartable: the mount ends with this process: {Reason}")]
    public static partial void NotRestartable(ILogger logger, string reason);

    [LoggerMessage(22, LogLevel.Warning, "{Directory} is mounted anew, whoever has files open gets errors: {Reason}")]
    public static partial void NotResumed(ILogger logger, string directory, string reason);

    [LoggerMessage(23, LogLevel.Information, "goes on with the mount on {Directory}")]
    public static partial void Resumed(ILogger logger, string directory);

    [LoggerMessage(24, LogLevel.Error,
        "{Directory}: the earlier process died before all was durable that had been written: files that were open then "
        + "answer with EIO until they are closed")]
    public static partial void MayHaveLost(ILogger logger, string directory);

    [LoggerMessage(25, LogLevel.Information, "hands {Directory} over to the next process")]
    public static partial void HandsOver(ILogger logger, string directory);

    [LoggerMessage(26, LogLevel.Warning, "SIGUSR2: {Directory} cannot be handed over; it stays as it is")]
    public static partial void CannotHandOver(ILogger logger, string directory);

    [LoggerMessage(27, LogLevel.Information, "{Directory} stays mounted although its files are closed: {Message}")]
    public static partial void StaysMounted(ILogger logger, string directory, string message);

    [LoggerMessage(40, LogLevel.Error,
        "{Directory}: the kernel has not written in time what programs stored into mapped memory; it is lost")]
    public static partial void PagesAreLost(ILogger logger, string directory);

    [LoggerMessage(28, LogLevel.Warning,
        "{Directory}: has more files than there is memory for: some are not shown "
        + "(hint: a directory of its own for them)")]
    public static partial void TooManyFiles(ILogger logger, string directory);

    [LoggerMessage(52, LogLevel.Error, "{What}: what nobody waits for has failed, and is tried again")]
    public static partial void WorkFailed(ILogger logger, string what, Exception failure);

    [LoggerMessage(50, LogLevel.Error,
        "{Image}: stays open, because what was written cannot be made durable; it is tried again every {Seconds} s: "
        + "{Message}")]
    public static partial void StaysOpen(ILogger logger, string image, double seconds, string message);

    [LoggerMessage(51, LogLevel.Warning, "{Message}; they have at most {Seconds} s to let go")]
    public static partial void StillUsed(ILogger logger, string message, double seconds);
}
