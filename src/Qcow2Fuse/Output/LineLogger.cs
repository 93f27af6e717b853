// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;

namespace Qcow2Fuse.Output;

/// <summary>A log of lines of text, without scopes and with one logger for all categories.</summary>
/// <param name="least">The level from which on messages are written.</param>
internal abstract class LineLogger(LogLevel least) : ILoggerProvider, ILogger
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
        if (IsEnabled(logLevel))
            Write(logLevel, formatter(state, exception));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        // Nothing is held between two messages.
    }

    /// <summary>Writes one message; returns once it is written, or dropped.</summary>
    protected abstract void Write(LogLevel level, string text);
}
