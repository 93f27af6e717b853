// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Output;

/// <summary>Ends a command with a message and an exit code.</summary>
/// <param name="exitCode">One of <see cref="Output.ExitCode"/>.</param>
/// <param name="message">One line without the program's name.</param>
/// <param name="hint">What to do about it, one line without "hint:"; or null.</param>
/// <param name="inner">What caused it.</param>
internal sealed class CommandException(int exitCode, string message, string? hint = null, Exception? inner = null)
    : Exception(message, inner)
{
    /// <summary>What the process ends with.</summary>
    public int ExitCode { get; } = exitCode;

    /// <summary>What the user can do about it; or null.</summary>
    public string? Hint { get; } = hint;

    /// <summary>A command line or setting that makes no sense.</summary>
    public static CommandException Usage(string message, string? hint = null, Exception? inner = null) =>
        new(Output.ExitCode.Usage, message, hint, inner);
}
