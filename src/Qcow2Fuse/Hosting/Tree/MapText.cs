// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>
/// The extents of a disk over its chain, one JSON object per line with the keys of <c>qemu-img map --output=json</c>.
/// </summary>
internal static class MapText
{
    /// <summary>Extents that are looked for at a time, while the disk is kept open.</summary>
    private const int ExtentsAtOnce = 64;

    /// <summary>
    /// The map of a disk, as a <see cref="TextCursor"/> reads it. The disk may change between two lines; each is true
    /// when it is made, and together they go from the beginning of the disk to its end.
    /// </summary>
    /// <param name="source">The disk; it is kept open for a moment at a time.</param>
    /// <param name="pace">Whether a long run of extents is to be told in parts.</param>
    public static IEnumerable<string?> Lines(DiskSource source, TextPace pace)
    {
        Extent[] found = new Extent[ExtentsAtOnce];
        Extent? pending = null;
        for (long offset = 0; ;)
        {
            int count = Next(source, ref offset, found, out bool isEnd);
            for (int i = 0; i < count; i++)
            {
                if (pending is { } before && Continues(before, found[i]))
                {
                    pending = before with { Length = before.Length + found[i].Length };
                    continue;
                }

                if (pending is { } ready)
                    yield return Line(ready);
                pending = found[i];
            }

            if (pending is { } last && (isEnd || pace.IsOver))
            {
                yield return Line(last);
                pending = null;
            }

            if (isEnd)
                yield break;
            yield return null;
        }
    }

    /// <summary>The next extents, and whether they are the last.</summary>
    private static int Next(DiskSource source, ref long offset, Extent[] extents, out bool isEnd)
    {
        BlockDevice disk = source.Acquire();
        try
        {
            long length = disk.Length;
            int count = 0;
            for (; count < extents.Length && offset < length; count++)
            {
                extents[count] = BackingChain.GetExtent(disk, offset, length - offset);
                offset += extents[count].Length;
            }

            isEnd = offset >= length;
            return count;
        }
        finally
        {
            source.Release();
        }
    }

    private static bool Continues(Extent before, Extent extent) =>
        before.Kind == extent.Kind && before.Depth == extent.Depth
        && (before.HostOffset < 0 ? extent.HostOffset < 0 : before.HostOffset + before.Length == extent.HostOffset);

    private static string Line(Extent extent)
    {
        bool isData = extent.Kind is ExtentKind.Data or ExtentKind.Compressed;
        bool isPresent = extent.Kind != ExtentKind.Unallocated;
        string place = extent.HostOffset >= 0
            ? string.Create(CultureInfo.InvariantCulture, $", \"offset\": {extent.HostOffset}")
            : "";
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{{ \"start\": {extent.Offset}, \"length\": {extent.Length}, \"depth\": {extent.Depth}, "
            + $"\"present\": {Word(isPresent)}, \"zero\": {Word(!isData)}, \"data\": {Word(isData)}, "
            + $"\"compressed\": {Word(extent.Kind == ExtentKind.Compressed)}{place}}}");
    }

    private static string Word(bool value) => value ? "true" : "false";
}
