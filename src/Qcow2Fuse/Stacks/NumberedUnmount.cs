// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Stacks;

/// <summary>
/// <c>umount --number</c>, which is hidden: how a daemon has the program unmount file systems on its own disk. It names
/// them by their numbers, because others may exchange the paths.
/// </summary>
internal static class NumberedUnmount
{
    /// <summary>The option with a number.</summary>
    public const string Option = "--number";

    /// <summary>The arguments with which the program unmounts these mounts, where nobody uses them.</summary>
    public static IReadOnlyList<string> WordsOf(IEnumerable<MountEntry> mounts) =>
        ["umount", .. mounts.Select(static mount => $"{Option}={NumberOf(mount)}")];

    /// <summary>Unmounts the mounts of the numbers; those that have gone are no failure.</summary>
    /// <returns>The exit code.</returns>
    public static int Run(IEnumerable<string> numbers)
    {
        int exitCode = ExitCode.Success;
        foreach (string number in numbers)
        {
            MountEntry? mount = MountTable.Read().FirstOrDefault(entry => NumberOf(entry) == number);
            if (mount is not null && MountRoot.Unmount(mount, lazy: false) < 0)
                exitCode = ExitCode.MountFailed;
        }

        return exitCode;
    }

    private static string NumberOf(MountEntry mount) =>
        string.Create(CultureInfo.InvariantCulture, $"{mount.Id}@{mount.Device}");
}
