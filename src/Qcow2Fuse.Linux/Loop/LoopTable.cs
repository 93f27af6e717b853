// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Loop;

/// <summary>A loop device that shows a file.</summary>
/// <param name="Number">Its number.</param>
/// <param name="BackingFile">The file's path as the kernel has it; of a file whose mount was detached, only the part
/// below that mount.</param>
public sealed record LoopEntry(int Number, string BackingFile)
{
    /// <summary>The device file.</summary>
    public string Path => LoopDevice.PathOf(Number);
}

/// <summary>The loop devices in use, from /sys/block. Opens none of them.</summary>
public static class LoopTable
{
    private const string Blocks = "/sys/block";
    private const string Prefix = "loop";

    /// <summary>All loop devices in use, by number.</summary>
    public static IReadOnlyList<LoopEntry> Read()
    {
        if (!Directory.Exists(Blocks))
            return [];
        List<LoopEntry> entries = [];
        foreach (string directory in Directory.EnumerateDirectories(Blocks, Prefix + "*"))
        {
            ReadOnlySpan<char> digits = Path.GetFileName(directory.AsSpan())[Prefix.Length..];
            if (int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out int number)
                && Find(number) is { } entry)
            {
                entries.Add(entry);
            }
        }

        return [.. entries.OrderBy(static entry => entry.Number)];
    }

    /// <summary>A loop device by its number; null where it shows no file.</summary>
    public static LoopEntry? Find(int number)
    {
        try
        {
            string text = LinuxPath.ReadAllText(
                string.Create(CultureInfo.InvariantCulture, $"{Blocks}/{Prefix}{number}/loop/backing_file"));

            // The attribute ends in one newline; a name may end in more.
            return text.Length > 1 ? new LoopEntry(number, text[..^1]) : null;
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // The attribute is there only while the device shows a file.
            return null;
        }
    }
}
