// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;

namespace Qcow2Fuse.Output;

/// <summary>
/// A log on standard error: <c>qcow2fuse: message</c> for people, <c>&lt;priority&gt;message</c> for the journal
/// (sd-daemon(3)). Each message is written before the call returns, so the last words of a dying daemon arrive.
/// </summary>
internal sealed class StderrLogger(LogLevel least) : ILoggerProvider, ILogger
{
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
        StandardError.WriteLine(JournalStream.Prefix(logLevel) + formatter(state, exception));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        // Standard error belongs to the process.
    }
}
