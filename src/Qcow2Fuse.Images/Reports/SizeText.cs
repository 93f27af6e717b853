// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Images.Reports;

/// <summary>Sizes as qemu-img reads and prints them: suffixes are powers of 1024.</summary>
public static class SizeText
{
    private const string Suffixes = "BKMGTPE";

    /// <summary>
    /// Reads <c>512</c>, <c>64k</c>, <c>1.5G</c>; suffixes b k M G T P E in either case. A fraction needs a suffix
    /// above b.
    /// </summary>
    /// <returns>False for anything else, negative sizes and sizes of 2^63 and more.</returns>
    public static bool TryParse(string text, out long bytes)
    {
        bytes = 0;
        int power = text.Length == 0 ? -1 : Suffixes.IndexOf(char.ToUpperInvariant(text[^1]), StringComparison.Ordinal);
        string digits = power < 0 ? text : text[..^1];
        const NumberStyles Styles = NumberStyles.AllowDecimalPoint;
        if (digits.Length == 0
            || !char.IsAsciiDigit(digits[0])
            || !decimal.TryParse(digits, Styles, CultureInfo.InvariantCulture, out decimal value)
            || (power <= 0 && value != decimal.Truncate(value)))
        {
            return false;
        }

        long unit = 1L << (10 * Math.Max(power, 0));
        if (value > (decimal)long.MaxValue / unit)
            return false;
        bytes = (long)(value * unit);
        return true;
    }

    /// <summary>Three significant digits and a unit: <c>1.5 GiB</c>, <c>204 KiB</c>, <c>0 B</c>.</summary>
    public static string Human(long bytes)
    {
        // The next unit begins at 1000 of the one below, so that three digits always do.
        int exponent = bytes == 0 ? 0 : Math.ILogB(bytes * 1.024) + 1;
        int power = Math.Max(exponent - 1, 0) / 10;
        double value = bytes / (double)(1L << (10 * power));
        string digits =
            value.ToString("G3", CultureInfo.InvariantCulture).Replace("E+03", "e+03", StringComparison.Ordinal);
        return power == 0 ? $"{digits} B" : $"{digits} {Suffixes[power]}iB";
    }
}
