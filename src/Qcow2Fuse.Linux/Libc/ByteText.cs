// SPDX-License-Identifier: MIT
using System.Buffers;
using System.Text;
using System.Text.Unicode;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>
/// Names of the system and of images as strings. They are bytes, of any encoding or none; in a string each byte that is
/// no part of valid UTF-8 is one lone surrogate, U+DC80 for 0x80 to U+DCFF for 0xFF. Other bytes give other strings,
/// and each string gives its bytes back, so that such strings can be compared and used as keys. All names go through
/// here, in and out; docs/decisions/0011-names-are-bytes.md has the reasons.
/// </summary>
public static class ByteText
{
    private const char First = '\uDC80';
    private const char Last = '\uDCFF';
    private const int ByteOffset = 0xDC00;

    /// <summary>The string of some bytes.</summary>
    public static string Decode(ReadOnlySpan<byte> bytes)
    {
        if (Utf8.IsValid(bytes))
            return Encoding.UTF8.GetString(bytes);
        StringBuilder text = new(bytes.Length);
        Span<char> units = stackalloc char[2];
        while (!bytes.IsEmpty)
        {
            OperationStatus status = Rune.DecodeFromUtf8(bytes, out Rune rune, out int length);
            if (status == OperationStatus.Done)
            {
                text.Append(units[..rune.EncodeToUtf16(units)]);
            }
            else
            {
                foreach (byte one in bytes[..length])
                    text.Append((char)(ByteOffset + one));
            }

            bytes = bytes[length..];
        }

        return text.ToString();
    }

    /// <summary>The string of bytes up to the first zero, or of all of them.</summary>
    public static string DecodeToZero(ReadOnlySpan<byte> bytes)
    {
        int end = bytes.IndexOf((byte)0);
        return Decode(end < 0 ? bytes : bytes[..end]);
    }

    /// <summary>The bytes of a string, without a zero behind them.</summary>
    public static byte[] Encode(string text)
    {
        if (IsText(text))
            return Encoding.UTF8.GetBytes(text);
        byte[] bytes = new byte[Encoding.UTF8.GetMaxByteCount(text.Length)];
        return bytes[..Encode(text, bytes)];
    }

    /// <summary>Writes the bytes of a string.</summary>
    /// <param name="text">The string.</param>
    /// <param name="destination">Has room for them: three for each char are enough.</param>
    /// <returns>How many there are.</returns>
    public static int Encode(ReadOnlySpan<char> text, Span<byte> destination)
    {
        int length = 0;
        while (!text.IsEmpty)
        {
            int plain = text.IndexOfAnyInRange(First, Last);
            if (plain < 0)
                plain = text.Length;

            // The second half of a pair is in the same range as a byte.
            bool isPair = plain > 0 && plain < text.Length && char.IsHighSurrogate(text[plain - 1]);
            int end = isPair ? plain + 1 : plain;
            length += Encoding.UTF8.GetBytes(text[..end], destination[length..]);
            if (!isPair && end < text.Length)
                destination[length++] = (byte)(text[end++] - ByteOffset);
            text = text[end..];
        }

        return length;
    }

    /// <summary>How many bytes a string has.</summary>
    public static int CountBytes(string text) => IsText(text) ? Encoding.UTF8.GetByteCount(text) : Encode(text).Length;

    /// <summary>Whether no char of a string stands for a byte, so that it is what it seems to be.</summary>
    public static bool IsText(ReadOnlySpan<char> text)
    {
        for (int at = text.IndexOfAnyInRange(First, Last); at >= 0;)
        {
            if (at == 0 || !char.IsHighSurrogate(text[at - 1]))
                return false;
            int next = text[(at + 1)..].IndexOfAnyInRange(First, Last);
            at = next < 0 ? -1 : at + 1 + next;
        }

        return true;
    }
}
