// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Images.Opening;

/// <summary>The formats that are known. Nothing else in the project names one.</summary>
public static class ImageFormats
{
    private static readonly KnownRaw Raw = new();

    /// <summary>All of them; those with a magic are recognised in this order.</summary>
    public static IReadOnlyList<KnownFormat> All { get; } = [new KnownQcow2(), Raw];

    /// <summary>What opens them as disks, in the same order.</summary>
    public static IReadOnlyList<IImageFormat> Openers { get; } = [.. All.Select(static format => format.Opener)];

    /// <summary>The names, as in "qcow2 and raw".</summary>
    public static string Names { get; } = string.Join(" and ", All.Select(static format => format.Name));

    /// <summary>The format that can keep snapshots inside. It says itself what is wrong with a file of another.
    /// </summary>
    public static KnownFormat WithSnapshots { get; } = All.First(static format => format.HasSnapshots);

    /// <summary>The format of a name.</summary>
    /// <exception cref="BlockException">It is not known.</exception>
    public static KnownFormat Named(string name) =>
        All.FirstOrDefault(format => string.Equals(format.Name, name, StringComparison.Ordinal))
        ?? throw new BlockException(
            BlockErrorKind.NotSupported,
            $"unknown format {Printable.Text(name)}",
            cause: new(FailureCode.FormatUnknown) { Name = Names });

    /// <summary>The format that a file is said to have, or else the one whose magic it carries; raw without any.
    /// </summary>
    /// <param name="file">The image file.</param>
    /// <param name="name">The name of the format, or null.</param>
    /// <exception cref="BlockException">
    /// The name is not known. Or none is given, and as <see cref="FormatProbe.Find"/>.
    /// </exception>
    public static KnownFormat Of(BlockDevice file, string? name)
    {
        if (name is not null)
            return Named(name);
        return FormatProbe.Find(Openers, file, file.Name) is { } found
            ? All.First(format => format.Opener == found) : Raw;
    }
}
