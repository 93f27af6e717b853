// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Output;

/// <summary>
/// Standard output for people. A line stays one line whatever names are in it; characters that could move the cursor
/// are escaped. Without <see cref="Console"/>, which writes to a terminal by itself. What cannot be written stops
/// nothing: it is told when the command has done its work (<see cref="Finish"/>).
/// </summary>
internal static class StandardOutput
{
    /// <summary>Its descriptor.</summary>
    public const int Descriptor = 1;

    private const int BufferBytes = 16384;
    private static int s_errno;

    /// <summary>Whether something could not be written.</summary>
    public static bool HasFailed => s_errno != 0;

    /// <summary>
    /// For what has many lines: they go out some at a time, and the rest on dispose. Names in them are escaped by those
    /// who make the lines.
    /// </summary>
    public static TextWriter OpenBuffered() =>
        new StreamWriter(new OutputStream(), new UTF8Encoding(false), BufferBytes) { NewLine = "\n" };

    /// <summary>Writes a line.</summary>
    public static void WriteLine(string line) => Write(Printable.Text(line) + "\n");

    /// <summary>Writes a text of lines. Names in it are escaped by those who made the lines.</summary>
    public static void WriteLines(string text) => Write(Printable.Lines(text));

    /// <summary>
    /// Writes bytes. A reader who has gone is no failure; a full disk is, and a stream that is closed.
    /// </summary>
    public static void Write(ReadOnlySpan<byte> bytes)
    {
        int result = LinuxStream.Write(Descriptor, bytes);
        if (result < 0 && result != -Errno.EPIPE)
            s_errno = -result;
    }

    /// <summary>Says what could not be written.</summary>
    /// <returns>The exit code, which is a failure then.</returns>
    public static int Finish(int exitCode)
    {
        if (!HasFailed)
            return exitCode;
        Report.Error($"standard output: {Errno.Text(s_errno)}");
        return exitCode == ExitCode.Success ? ExitCode.Failure : exitCode;
    }

    private static void Write(string text) => Write(Encoding.UTF8.GetBytes(text));
}
