// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Mounting;

/// <summary>One mount of this process's mount namespace.</summary>
/// <param name="Id">Number of the mount.</param>
/// <param name="ParentId">Number of the mount it lies on.</param>
/// <param name="Device">Number of the file system as "major:minor".</param>
/// <param name="MountPoint">Where it is mounted, as seen from this process's root.</param>
/// <param name="Type">Type of file system, as "fuse.qcow2fuse".</param>
/// <param name="Source">What was mounted.</param>
/// <param name="SuperOptions">Options of the file system, comma-separated.</param>
public sealed record MountEntry(
    int Id, int ParentId, string Device, string MountPoint, string Type, string Source, string SuperOptions)
{
    private const string UserField = "user_id=";

    /// <summary>The minor number of the device, for FUSE the number of the session; −1 where it is none.</summary>
    public int Minor => int.TryParse(
        Device.AsSpan(Device.IndexOf(':', StringComparison.Ordinal) + 1), NumberStyles.None,
        CultureInfo.InvariantCulture, out int minor) ? minor : -1;

    /// <summary>For FUSE the user who mounted it; null where the kernel does not say.</summary>
    public uint? UserId => SuperOptions.Split(',')
        .FirstOrDefault(static word => word.StartsWith(UserField, StringComparison.Ordinal)) is { } word
        && uint.TryParse(word.AsSpan(UserField.Length), NumberStyles.None, CultureInfo.InvariantCulture, out uint id)
            ? id
            : null;

    /// <summary>
    /// Whether another entry shows this mount, at whatever place. The kernel gives the numbers of a mount that has gone
    /// to the next one, so what was mounted counts too.
    /// </summary>
    public bool IsSameMount(MountEntry other) => other.Id == Id && other.Device == Device && other.Type == Type
        && string.Equals(other.Source, Source, StringComparison.Ordinal);
}

/// <summary>The kernel's list of mounts (/proc/self/mountinfo, proc_pid_mountinfo(5)).</summary>
public static class MountTable
{
    private const string TablePath = "/proc/self/mountinfo";

    /// <summary>All mounts. Reading the list asks nothing of the file systems in it.</summary>
    public static IReadOnlyList<MountEntry> Read() => Parse(LinuxPath.ReadAllText(TablePath));

    /// <summary>The mount that a path of a mount point leads to, the topmost where they lie on each other.</summary>
    /// <param name="mountPoint">An absolute path without symbolic links.</param>
    public static MountEntry? FindAt(string mountPoint) => FindAt(Read(), mountPoint);

    /// <summary>
    /// The same mount as the table has it now; null where it has gone, or is at another place. Numbers of mounts and
    /// devices are given again as soon as they are free, so that at another place it may be another mount.
    /// </summary>
    public static MountEntry? Find(MountEntry mount) => Read().FirstOrDefault(entry => entry.Id == mount.Id
        && entry.ParentId == mount.ParentId && entry.Device == mount.Device && entry.Type == mount.Type
        && entry.Source == mount.Source && entry.MountPoint == mount.MountPoint);

    internal static MountEntry? FindAt(IReadOnlyList<MountEntry> table, string mountPoint)
    {
        List<MountEntry> here = table.Where(entry => entry.MountPoint == mountPoint).ToList();
        return here.Find(entry => here.TrueForAll(other => other.ParentId != entry.Id || other.Id == entry.Id));
    }

    internal static IReadOnlyList<MountEntry> Parse(string text)
    {
        List<MountEntry> entries = [];
        foreach (string line in text.Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            if (ParseLine(line) is { } entry)
                entries.Add(entry);
        }

        return entries;
    }

    /// <summary>Undoes the escapes \040 (space), \011, \012 and \134 of the list's fields.</summary>
    internal static string Unescape(string field)
    {
        if (!field.Contains('\\', StringComparison.Ordinal))
            return field;

        byte[] bytes = ByteText.Encode(field);
        int length = 0;
        for (int i = 0; i < bytes.Length; i++)
        {
            bool escaped = bytes[i] == '\\' && i + 3 < bytes.Length
                && IsOctal(bytes[i + 1], '3') && IsOctal(bytes[i + 2], '7') && IsOctal(bytes[i + 3], '7');
            if (!escaped)
            {
                bytes[length++] = bytes[i];
                continue;
            }

            bytes[length++] = (byte)(((bytes[i + 1] - '0') << 6) | ((bytes[i + 2] - '0') << 3) | (bytes[i + 3] - '0'));
            i += 3;
        }

        return ByteText.Decode(bytes.AsSpan(0, length));
    }

    private static bool IsOctal(byte value, char last) => value >= '0' && value <= last;

    // id parent major:minor root mount-point options [tags ...] - type source super-options
    private static MountEntry? ParseLine(string line)
    {
        string[] fields = line.Split(' ');
        int separator = Array.IndexOf(fields, "-", Math.Min(6, fields.Length));
        if (separator < 0 || fields.Length < separator + 4)
            return null;
        if (!int.TryParse(fields[0], NumberStyles.None, CultureInfo.InvariantCulture, out int id)
            || !int.TryParse(fields[1], NumberStyles.None, CultureInfo.InvariantCulture, out int parent))
        {
            return null;
        }

        return new MountEntry(
            id,
            parent,
            fields[2],
            Unescape(fields[4]),
            Unescape(fields[separator + 1]),
            Unescape(fields[separator + 2]),
            fields[separator + 3]);
    }
}
