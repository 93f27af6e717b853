// SPDX-License-Identifier: MIT
using System.Globalization;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Output;

/// <summary>Standard error where it leads to the journal, which takes a priority in front of a line (sd-daemon(3)).
/// </summary>
internal static class JournalStream
{
    /// <summary>Whether it does.</summary>
    public static bool IsStandardError { get; } = Ask();

    /// <summary>What stands in front of a line of a level: its priority, or the program's name for people.</summary>
    public static string Prefix(LogLevel level) =>
        IsStandardError ? $"<{SyslogPriority.Of(level)}>" : $"{Report.ProgramName}: ";

    /// <summary>
    /// Whether standard error is the stream that JOURNAL_STREAM ("DEVICE:INODE") names, and not one that was put into
    /// its place since.
    /// </summary>
    private static bool Ask()
    {
        string? stream = Environment.GetEnvironmentVariable("JOURNAL_STREAM");
        if (string.IsNullOrEmpty(stream) || LinuxFile.Status(StandardError.Descriptor, out FileStatus status) != 0)
            return false;

        // st_dev as the C library packs it (makedev(3)).
        ulong major = status.Device >> 32;
        ulong minor = status.Device & uint.MaxValue;
        ulong device = ((major & 0xFFFFF000) << 32) | ((major & 0xFFF) << 8) | ((minor & 0xFFFFFF00) << 12)
            | (minor & 0xFF);
        return string.Equals(
            stream, string.Create(CultureInfo.InvariantCulture, $"{device}:{status.Inode}"), StringComparison.Ordinal);
    }
}
