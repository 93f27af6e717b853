// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;

namespace Qcow2Fuse.Block;

/// <summary>Names from outside, made fit for a message of one line.</summary>
public static class Printable
{
    /// <summary>
    /// <paramref name="text"/> with everything escaped that could move the cursor, break the line, reorder what is
    /// shown or hide itself: control, format and separator characters and lone surrogates become \xHH or \u{HHHH}.
    /// </summary>
    public static string Text(string text)
    {
        StringBuilder? escaped = null;
        int position = 0;
        while (position < text.Length)
        {
            int size = 1;
            bool plain = false;
            int value = text[position];
            if (Rune.TryGetRuneAt(text, position, out Rune rune))
            {
                size = rune.Utf16SequenceLength;
                value = rune.Value;
                plain = IsPlain(rune);
            }

            if (!plain && escaped is null)
                escaped = new StringBuilder(text, 0, position, text.Length + 16);
            if (plain)
                escaped?.Append(text, position, size);
            else if (value <= 0xff)
                escaped!.Append(CultureInfo.InvariantCulture, $"\\x{value:x2}");
            else
                escaped!.Append(CultureInfo.InvariantCulture, $"\\u{{{value:x4}}}");
            position += size;
        }

        return escaped?.ToString() ?? text;
    }

    private static bool IsPlain(Rune rune) => Rune.GetUnicodeCategory(rune) is not (
        UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.LineSeparator
        or UnicodeCategory.ParagraphSeparator or UnicodeCategory.Surrogate);
}
