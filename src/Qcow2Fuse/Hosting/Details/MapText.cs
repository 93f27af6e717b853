// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// The extents of a disk over its chain, one JSON object per line with the keys of <c>qemu-img map --output=json</c>.
/// </summary>
internal static class MapText
{
    /// <summary>Writes the map of an open disk.</summary>
    public static void Write(BlockDevice disk, TextWriter text)
    {
        long length = disk.Length;
        Extent? pending = null;
        for (long offset = 0; offset < length;)
        {
            Extent extent = BackingChain.GetExtent(disk, offset, length - offset);
            offset += extent.Length;
            if (pending is { } before && Continues(before, extent))
            {
                pending = before with { Length = before.Length + extent.Length };
                continue;
            }

            if (pending is { } ready)
                WriteLine(ready, text);
            pending = extent;
        }

        if (pending is { } last)
            WriteLine(last, text);
    }

    private static bool Continues(Extent before, Extent extent) =>
        before.Kind == extent.Kind && before.Depth == extent.Depth
        && (before.HostOffset < 0 ? extent.HostOffset < 0 : before.HostOffset + before.Length == extent.HostOffset);

    private static void WriteLine(Extent extent, TextWriter text)
    {
        bool isData = extent.Kind is ExtentKind.Data or ExtentKind.Compressed;
        bool isPresent = extent.Kind != ExtentKind.Unallocated;
        string place = extent.HostOffset >= 0
            ? string.Create(CultureInfo.InvariantCulture, $", \"offset\": {extent.HostOffset}")
            : "";
        text.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{{ \"start\": {extent.Offset}, \"length\": {extent.Length}, \"depth\": {extent.Depth}, "
            + $"\"present\": {Word(isPresent)}, \"zero\": {Word(!isData)}, \"data\": {Word(isData)}, "
            + $"\"compressed\": {Word(extent.Kind == ExtentKind.Compressed)}{place}}}"));
    }

    private static string Word(bool value) => value ? "true" : "false";
}
