// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Processes;

/// <summary>The command line of this process in bytes, which the runtime gives as text alone.</summary>
public static class CommandWords
{
    private const string OriginalPath = "/proc/self/cmdline";
    private const char Replacement = '\uFFFD';

    /// <summary>
    /// The arguments as <see cref="ByteText"/> has them. Where there is no /proc they stay as the runtime has them, in
    /// which bytes that are no text are lost.
    /// </summary>
    /// <param name="arguments">What the runtime gave.</param>
    public static string[] Restore(string[] arguments)
    {
        if (!arguments.Any(static argument => argument.Contains(Replacement)))
            return arguments;
        byte[] all;
        try
        {
            all = File.ReadAllBytes(OriginalPath);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return arguments;
        }

        List<byte[]> words = [];
        for (int start = 0; start < all.Length;)
        {
            int length = all.AsSpan(start).IndexOf((byte)0);
            if (length < 0)
                length = all.Length - start;
            words.Add(all[start..(start + length)]);
            start += length + 1;
        }

        // In front of them is argv[0], and the program where another one runs it.
        int first = words.Count - arguments.Length;
        string[] restored = [.. words.Skip(Math.Max(first, 0)).Select(static word => ByteText.Decode(word))];
        bool isSame = first >= 0 && words.Skip(first).Select(static word => Encoding.UTF8.GetString(word))
            .SequenceEqual(arguments, StringComparer.Ordinal);
        return isSame ? restored : arguments;
    }
}
