// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>What processes have open, as /proc says it.</summary>
public static class OpenDescriptors
{
    /// <summary>
    /// The numbers of a process's descriptors and the paths they were opened by. Nothing that is open is touched: a
    /// listing of <c>/proc/PID/fd</c> would follow the links to see which are directories, and wait for ever for a file
    /// on a mount that does not answer. So the numbers are those of <c>/proc/PID/fdinfo</c>.
    /// </summary>
    /// <param name="process">The directory of the process, <c>/proc/PID</c>.</param>
    /// <exception cref="IOException">It has ended.</exception>
    /// <exception cref="UnauthorizedAccessException">It belongs to somebody else.</exception>
    public static IEnumerable<(string Number, string Target)> Of(string process)
    {
        foreach (string details in Directory.EnumerateFiles(process + "/fdinfo"))
        {
            string number = Path.GetFileName(details);
            if (LinuxPath.LinkTarget($"{process}/fd/{number}") is { } target)
                yield return (number, target);
        }
    }

    /// <summary>Whether the calling user may see what a process has open.</summary>
    public static bool AreSeen(int process)
    {
        try
        {
            return Of(string.Create(CultureInfo.InvariantCulture, $"/proc/{process}")).Any();
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>The inodes of a process's descriptors; null for each where the kernel does not tell (before 5.14).
    /// </summary>
    /// <inheritdoc cref="Of"/>
    public static IEnumerable<ulong?> InodesOf(string process) =>
        Directory.EnumerateFiles(process + "/fdinfo").Select(InodeOf);

    /// <summary>What the kernel tells of a descriptor under a name; null where it does not.</summary>
    /// <param name="details">The file of the descriptor, <c>/proc/PID/fdinfo/N</c>.</param>
    /// <param name="field">The name, without its colon.</param>
    /// <inheritdoc cref="Of"/>
    public static string? FieldOf(string details, string field) => File.ReadLines(details)
        .FirstOrDefault(line => line.StartsWith(field + ":", StringComparison.Ordinal))
        ?[(field.Length + 1)..].Trim();

    private static ulong? InodeOf(string details) => ulong.TryParse(
        FieldOf(details, "ino"), NumberStyles.None, CultureInfo.InvariantCulture, out ulong inode) ? inode : null;
}
