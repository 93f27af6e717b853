// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;

namespace Qcow2Fuse.Block.Errors;

/// <summary>
/// Names from outside, made fit to be shown. This is the only place that knows what has to be escaped: everything that
/// could move the cursor, break the line, reorder what is shown or hide itself, which is control characters (C0, DEL,
/// C1), format and separator characters and lone surrogates. Text without them stays as it is, so that to escape twice
/// is to escape once.
/// </summary>
public static class Printable
{
    /// <summary>
    /// One line: what has to be escaped becomes \xHH or \u{HHHH}. A lone surrogate of U+DC80 to U+DCFF stands for a
    /// byte of a name that is no text, and is shown as that.
    /// </summary>
    public static string Text(string text) => Escape(text, static _ => false, static rune => rune switch
    {
        <= 0xff => string.Create(CultureInfo.InvariantCulture, $"\\x{rune:x2}"),
        >= 0xdc80 and <= 0xdcff => string.Create(CultureInfo.InvariantCulture, $"\\x{rune - 0xdc00:x2}"),
        _ => string.Create(CultureInfo.InvariantCulture, $"\\u{{{rune:x4}}}"),
    });

    /// <summary>Several lines: as <see cref="Text"/>, but ends of lines stay.</summary>
    public static string Lines(string text) =>
        string.Join('\n', text.Split('\n').Select(Text));

    /// <summary>
    /// A JSON text in which strings are quoted already. What has to be escaped becomes \uHHHH, which is the same
    /// string; ends of lines stand between its tokens only, and stay.
    /// </summary>
    public static string Json(string json) => Escape(json, static rune => rune == '\n', static rune =>
    {
        Span<char> units = stackalloc char[2];
        if (!Rune.TryCreate(rune, out Rune whole))
            return string.Create(CultureInfo.InvariantCulture, $"\\u{rune:X4}");
        return string.Concat(units[..whole.EncodeToUtf16(units)].ToArray().Select(static unit =>
            string.Create(CultureInfo.InvariantCulture, $"\\u{(int)unit:X4}")));
    });

    private static string Escape(string text, Func<int, bool> isKept, Func<int, string> escape)
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

            plain |= isKept(value);
            if (!plain && escaped is null)
                escaped = new StringBuilder(text, 0, position, text.Length + 16);
            if (plain)
                escaped?.Append(text, position, size);
            else
                escaped!.Append(escape(value));
            position += size;
        }

        return escaped?.ToString() ?? text;
    }

    private static bool IsPlain(Rune rune) => Rune.GetUnicodeCategory(rune) is not (
        UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.LineSeparator
        or UnicodeCategory.ParagraphSeparator or UnicodeCategory.Surrogate);
}
