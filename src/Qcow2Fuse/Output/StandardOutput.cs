// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Output;

/// <summary>
/// Standard output for people. A line stays one line whatever names are in it; characters that could move the cursor
/// are escaped.
/// </summary>
internal static class StandardOutput
{
    private const int BufferBytes = 16384;

    /// <summary>
    /// For what has many lines: they go out some at a time, and the rest on dispose. Names in them are escaped by those
    /// who make the lines.
    /// </summary>
    public static TextWriter OpenBuffered() =>
        new StreamWriter(new OutputStream(), new UTF8Encoding(false), BufferBytes) { NewLine = "\n" };

    /// <summary>Writes a line.</summary>
    public static void WriteLine(string line) => Console.Out.WriteLine(Printable.Text(line));

    /// <summary>Writes a text of lines. Names in it are escaped by those who made the lines.</summary>
    public static void WriteLines(string text) => Console.Out.Write(Printable.Lines(text));
}
