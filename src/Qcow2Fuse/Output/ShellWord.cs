// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Output;

/// <summary>Names as words of a shell command that a user can copy.</summary>
internal static class ShellWord
{
    private const string Plain = "/._-+=:@%,";

    /// <summary><paramref name="text"/> as one word, as far as it can be shown.</summary>
    public static string Of(string text)
    {
        string shown = Printable.Text(text);
        bool isPlain = shown.Length > 0 && shown.All(static c => char.IsAsciiLetterOrDigit(c) || Plain.Contains(c));
        return isPlain ? shown : $"'{shown.Replace("'", "'\\''", StringComparison.Ordinal)}'";
    }
}
