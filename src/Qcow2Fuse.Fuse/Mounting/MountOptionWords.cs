// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Fuse.Mounting;

/// <summary>The words of "-o" that mount(8) and fusermount3(1) know, and what they mean for a mount.</summary>
internal static class MountOptionWords
{
    private static readonly Dictionary<string, (MountFlags Flag, bool On)> FlagWords =
        new(StringComparer.Ordinal)
        {
            ["ro"] = (MountFlags.ReadOnly, true),
            ["rw"] = (MountFlags.ReadOnly, false),
            ["nosuid"] = (MountFlags.NoSetuid, true),
            ["suid"] = (MountFlags.NoSetuid, false),
            ["nodev"] = (MountFlags.NoDevices, true),
            ["dev"] = (MountFlags.NoDevices, false),
            ["noexec"] = (MountFlags.NoExecute, true),
            ["exec"] = (MountFlags.NoExecute, false),
            ["sync"] = (MountFlags.Synchronous, true),
            ["async"] = (MountFlags.Synchronous, false),
            ["dirsync"] = (MountFlags.SynchronousDirectories, true),
            ["noatime"] = (MountFlags.NoAccessTimes, true),
            ["atime"] = (MountFlags.NoAccessTimes, false),
            ["nodiratime"] = (MountFlags.NoDirectoryAccessTimes, true),
            ["diratime"] = (MountFlags.NoDirectoryAccessTimes, false),
            ["relatime"] = (MountFlags.RelativeAccessTimes, true),
            ["norelatime"] = (MountFlags.RelativeAccessTimes, false),
            ["strictatime"] = (MountFlags.StrictAccessTimes, true),
            ["nostrictatime"] = (MountFlags.StrictAccessTimes, false),
            ["lazytime"] = (MountFlags.LazyTimes, true),
            ["nolazytime"] = (MountFlags.LazyTimes, false),
        };

    /// <summary>See <see cref="MountSpec.TryApply"/>.</summary>
    public static bool TryApply(MountSpec spec, string name, string? value, out MountSpec result)
    {
        if (FlagWords.TryGetValue(name, out (MountFlags Flag, bool On) word))
        {
            RefuseValue(name, value);
            result = spec with { Flags = word.On ? spec.Flags | word.Flag : spec.Flags & ~word.Flag };
            return true;
        }

        switch (name)
        {
            case "allow_other":
                RefuseValue(name, value);
                result = spec with { AllowOther = true };
                return true;
            case "default_permissions":
                RefuseValue(name, value);
                result = spec with { DefaultPermissions = true };
                return true;
            case "auto_unmount":
                RefuseValue(name, value);
                result = spec with { AutoUnmount = true };
                return true;
            case "max_read":
                result = spec with { MaxRead = ParseCount(name, value) };
                return true;
            case "fsname":
                result = spec with { Source = RequireValue(name, value) };
                return true;
            case "subtype":
                result = spec with { Subtype = RequireValue(name, value) };
                return true;
            default:
                result = spec;
                return false;
        }
    }

    /// <summary>The words for <paramref name="flags"/>, as fusermount3 takes them.</summary>
    public static IEnumerable<string> Words(MountFlags flags) =>
        FlagWords.Where(word => word.Value.On && flags.HasFlag(word.Value.Flag)).Select(word => word.Key);

    private static void RefuseValue(string name, string? value)
    {
        if (value is not null)
            throw new FormatException($"option {name} takes no value");
    }

    private static string RequireValue(string name, string? value) =>
        string.IsNullOrEmpty(value) ? throw new FormatException($"option {name} needs a value") : value;

    private static int ParseCount(string name, string? value) =>
        int.TryParse(RequireValue(name, value), NumberStyles.None, CultureInfo.InvariantCulture, out int count)
            ? count
            : throw new FormatException($"option {name}: '{value}' is not a number of bytes");
}
