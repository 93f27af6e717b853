// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;

namespace Qcow2Fuse.Output;

/// <summary>
/// What the user reads on standard error: <c>qcow2fuse: FILE: reason</c>, and a <c>hint:</c> line where one helps.
/// Each message is one line; characters that could move the cursor are escaped. In the journal a failure has the
/// priority of one.
/// </summary>
internal static class Report
{
    /// <summary>The name in front of every message.</summary>
    public const string ProgramName = "qcow2fuse";

    /// <summary>Prints a failure.</summary>
    public static void Error(string message, string? hint = null) =>
        Write(LogLevel.Error, "", message, hint);

    /// <summary>Prints what the user should know although the command goes on.</summary>
    public static void Warning(string message, string? hint = null) =>
        Write(LogLevel.Warning, "warning: ", message, hint);

    private static void Write(LogLevel level, string kind, string message, string? hint)
    {
        string prefix = JournalStream.Prefix(level);
        StandardError.WriteLine($"{prefix}{kind}{message}");
        if (hint is not null)
            StandardError.WriteLine($"{(JournalStream.IsStandardError ? prefix : "")}hint: {hint}");
    }
}
