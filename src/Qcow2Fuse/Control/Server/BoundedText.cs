// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Control.Server;

/// <summary>
/// The text of an answer, which is in memory as a whole and therefore bounded: an image may have lists of any length.
/// </summary>
/// <param name="shown">What is asked about, for the message.</param>
internal sealed class BoundedText(string shown) : TextWriter
{
    /// <summary>Characters of an answer at most: the lists of 10,000 snapshots.</summary>
    public const int CharsMax = 2 << 20;

    private readonly StringBuilder _text = new();

    /// <inheritdoc/>
    public override Encoding Encoding => Encoding.UTF8;

    /// <inheritdoc/>
    /// <exception cref="CommandException">There is no room for it.</exception>
    public override void Write(char value)
    {
        MakeRoom(1);
        _text.Append(value);
    }

    /// <inheritdoc/>
    /// <exception cref="CommandException">There is no room for it.</exception>
    public override void Write(ReadOnlySpan<char> buffer)
    {
        MakeRoom(buffer.Length);
        _text.Append(buffer);
    }

    /// <inheritdoc/>
    public override void Write(char[] buffer, int index, int count) => Write(buffer.AsSpan(index, count));

    /// <inheritdoc/>
    public override void Write(string? value) => Write(value.AsSpan());

    /// <inheritdoc/>
    public override string ToString() => _text.ToString();

    private void MakeRoom(int chars)
    {
        if (_text.Length > CharsMax - chars)
        {
            throw new CommandException(
                ExitCode.Failure,
                $"{shown}: what there is to say is too long for the daemon that has it mounted",
                "-U looks at the file itself");
        }
    }
}
