// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Output;

/// <summary>
/// A log on standard error: <c>qcow2fuse: message</c> for people, <c>&lt;priority&gt;message</c> for the journal
/// (sd-daemon(3)). Each message is written before the call returns, so the last words of a dying daemon arrive.
/// </summary>
internal sealed class StderrLogger(LogLevel least) : ILoggerProvider, ILogger
{
    private static readonly bool ForJournal =
        !string.IsNullOrEmpty(Environment.GetEnvironmentVariable("JOURNAL_STREAM"));

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
        string message = Printable.Text(formatter(state, exception));
        StandardError.WriteLine(ForJournal ? $"<{Priority(logLevel)}>{message}" : $"{Report.ProgramName}: {message}");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        // Standard error belongs to the process.
    }

    /// <summary>The priorities of syslog(3).</summary>
    private static int Priority(LogLevel level) => level switch
    {
        LogLevel.Critical => 2,
        LogLevel.Error => 3,
        LogLevel.Warning => 4,
        LogLevel.Information => 6,
        _ => 7,
    };
}
