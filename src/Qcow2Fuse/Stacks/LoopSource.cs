// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Loop;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Stacks;

/// <summary>
/// A loop device as source. mount(8) attaches the image to one by itself when it is given <c>-o loop</c>, before it
/// calls this program, and lets go of it afterwards; the image behind it is what was meant. Any other device is what
/// was named, and its size is a limit that the file behind it does not have.
/// </summary>
internal static class LoopSource
{
    private const int SectorSize = 512;

    /// <summary>
    /// The file behind a device that mount(8) made for this call; the source itself where it is no such device.
    /// </summary>
    /// <param name="source">What was named as image.</param>
    /// <param name="warns">Tell the user that the device is not needed.</param>
    public static string Resolve(string source, bool warns)
    {
        int number = LoopDevice.NumberOf(LinuxPath.Full(source));
        bool isWhole = number >= 0 && ReadNumber(number, "loop/offset") == 0
            && ReadNumber(number, "loop/sizelimit") == 0;
        if (!isWhole || LoopTable.Find(number) is not { } loop
            || !LinuxPath.TryStatus(loop.BackingFile, out FileStatus file))
        {
            return source;
        }

        if (Typed.Verb == TypedVerb.Helper && ReadNumber(number, "loop/autoclear") == 1)
        {
            if (warns)
                Report.Warning($"{source}: {loop.BackingFile} is opened directly, without the loop device");
            return loop.BackingFile;
        }

        // The device has whole sectors only.
        long size = ReadNumber(number, "size") * SectorSize;
        if (warns && file.Type == FileType.Regular && size >= 0 && size < file.Size)
            Report.Warning($"{source}: shows {size} of the {file.Size} bytes of {loop.BackingFile}");
        return source;
    }

    /// <summary>An attribute of the device; −1 where it shows no file.</summary>
    private static long ReadNumber(int number, string attribute)
    {
        string path = string.Create(CultureInfo.InvariantCulture, $"/sys/block/loop{number}/{attribute}");
        try
        {
            return long.Parse(File.ReadAllText(path), CultureInfo.InvariantCulture);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return -1;
        }
    }
}
