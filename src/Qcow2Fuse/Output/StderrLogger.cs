// SPDX-License-Identifier: MIT
using System.Globalization;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Linux;

namespace Qcow2Fuse.Output;

/// <summary>
/// A log on standard error: <c>qcow2fuse: message</c> for people, <c>&lt;priority&gt;message</c> for the journal
/// (sd-daemon(3)). Each message is written before the call returns, so the last words of a dying daemon arrive.
/// </summary>
internal sealed class StderrLogger(LogLevel least) : ILoggerProvider, ILogger
{
    private static readonly bool ForJournal = IsJournal();

    /// <inheritdoc/>
    public ILogger CreateLogger(string categoryName) => this;

    /// <inheritdoc/>
    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    /// <inheritdoc/>
    public bool IsEnabled(LogLevel logLevel) => logLevel >= least;

    /// <inheritdoc/>
    public void Log<TState>(
        LogLevel logLevel,
        EventId eventId,
        TState state,
        Exception? exception,
        Func<TState, Exception?, string> formatter)
    {
        if (!IsEnabled(logLevel))
            return;
        string message = formatter(state, exception);
        string text = ForJournal ? $"<{SyslogPriority.Of(logLevel)}>{message}" : $"{Report.ProgramName}: {message}";
        StandardError.WriteLine(text);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        // Standard error belongs to the process.
    }

    /// <summary>
    /// Whether standard error is the stream that JOURNAL_STREAM ("DEVICE:INODE") names, and not one that was put into
    /// its place since.
    /// </summary>
    private static bool IsJournal()
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
