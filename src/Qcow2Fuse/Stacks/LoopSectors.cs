// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Partitions;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Stacks;

/// <summary>
/// How large the sectors of a loop device are. A partition table counts in sectors, so that one made for 4096 bytes is
/// found on such a device alone.
/// </summary>
internal static class LoopSectors
{
    /// <summary>
    /// The size that the options give, or else that of the partition table on the disk. What the device will not show
    /// of the disk's end is told.
    /// </summary>
    /// <param name="disk">The disk.</param>
    /// <param name="image">Its name in messages.</param>
    /// <param name="given">What the options say; 0 for nothing.</param>
    public static int Of(BlockDevice disk, string image, int given)
    {
        int size = given > 0 ? given : PartitionTable.Read(disk).SectorSize;
        long rest = disk.Length % size;
        if (rest > 0)
        {
            Report.Warning(string.Create(
                CultureInfo.InvariantCulture,
                $"{image}: the last {rest} bytes are no whole sector of {size}, and not on the device"));
        }

        return size;
    }

    /// <summary>What options given as words of <c>-o</c> say of it; 0 for nothing.</summary>
    /// <exception cref="CommandException">They say something that makes no sense.</exception>
    public static int GivenBy(IEnumerable<string> words)
    {
        OptionList options = new();
        foreach (string argument in words)
            options.AddWords(argument);
        return SettingsLoader.Load(SettingsLoader.Files, options, source: null, directory: null).SectorSize;
    }
}
