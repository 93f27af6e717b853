// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Settings;

/// <summary>Options that are meant for others: mount(8), SELinux, and the file system inside the image.</summary>
internal static partial class MountOptions
{
    private static string[] InnerFlags =>
    [
        "nouuid", "norecovery", "noload", "degraded", "nologreplay", "nobarrier", "noquota", "prjquota", "usrquota",
        "grpquota", "acl", "noacl", "user_xattr", "nouser_xattr",
    ];

    private static string[] InnerValues =>
    [
        "subvol", "subvolid", "data", "errors", "logbufs", "logbsize", "iocharset", "codepage", "dmask",
        "fmask", "nls",
    ];

    /// <summary>What mount(8) hands over of its own.</summary>
    private static IEnumerable<MountOption> SecurityOptions =>
    [
        .. ((string[])["context", "fscontext", "defcontext", "rootcontext"]).Select(static name =>
            MountOption.Text(name, "LABEL", "As in mount(8)", (s, v) => s.SecurityOptions.Add((name, v)))
                with { IsListed = false }),
        MountOption.Flag("remount", "As in mount(8): change the flags of a mount", (s, on) => s.Remounts = on)
            with { IsListed = false, IsOfStart = true },
    ];

    /// <summary>
    /// Options of the file system inside the image, for <c>--fs</c>: those that its users need and that mean nothing
    /// here, and a way for all others.
    /// </summary>
    private static IEnumerable<MountOption> InnerOptions =>
    [
        MountOption.Text(
            "fs_options", "OPTIONS", "With --fs: options of the file system inside, \\, for a comma (repeatable)",
            (s, v) => s.FileSystemOptions.Add(v)) with { Repeatable = true, IsOfFileSystem = true },
        .. InnerFlags.Select(static name =>
            MountOption.Flag(name, "Of the file system inside", (s, isOn) => AddInner(s, isOn ? name : null))
                with { IsListed = false, IsOfFileSystem = true }),
        .. InnerValues.Select(static name =>
            MountOption.Text(
                name, "VALUE", "Of the file system inside", (s, v) => AddInner(s, $"{name}={Quoted(v)}"))
                with { IsListed = false, IsOfFileSystem = true }),
    ];

    private static void AddInner(MountSettings settings, string? word)
    {
        if (word is not null)
            settings.FileSystemOptions.Add(word);
    }

    /// <summary>As mount(8) wants values with commas.</summary>
    private static string Quoted(string value) =>
        value.Contains(',', StringComparison.Ordinal) ? $"\"{value}\"" : value;
}
