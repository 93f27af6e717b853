// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Commands;

/// <summary>
/// A loop device as source. mount(8) attaches the image to one by itself when it is given <c>-o loop</c>, before it
/// calls this program, and lets go of it afterwards; the image behind it is what was meant.
/// </summary>
internal static class LoopSource
{
    /// <summary>
    /// The file that a loop device shows from its first byte to its last; the source itself where it is no such device.
    /// </summary>
    /// <param name="source">What was named as image.</param>
    /// <param name="warns">Tell the user that the device is not needed.</param>
    public static string Resolve(string source, bool warns)
    {
        int number = LoopDevice.NumberOf(Path.GetFullPath(source));
        if (number < 0 || LoopTable.Find(number) is not { } loop || !File.Exists(loop.BackingFile) || !IsWhole(number))
            return source;
        if (warns)
            Report.Warning($"{source}: {loop.BackingFile} is opened directly, without the loop device");
        return loop.BackingFile;
    }

    private static bool IsWhole(int number) =>
        ReadNumber(number, "offset") == 0 && ReadNumber(number, "sizelimit") == 0;

    private static long ReadNumber(int number, string attribute) => long.Parse(
        File.ReadAllText(
            string.Create(CultureInfo.InvariantCulture, $"/sys/block/loop{number}/loop/{attribute}")),
        CultureInfo.InvariantCulture);
}
