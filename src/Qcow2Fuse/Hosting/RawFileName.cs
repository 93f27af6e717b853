// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting;

/// <summary>Names of the raw files in a mount.</summary>
internal static class RawFileName
{
    private static readonly string[] Extensions = [".qcow2", ".qcow", ".img", ".raw"];

    /// <summary>What the name of an image may have behind that of its raw file; the usual first, and none last.
    /// </summary>
    public static IReadOnlyList<string> Endings { get; } = [.. Extensions, ""];

    /// <summary><c>disk.raw</c> for <c>/srv/disk.qcow2</c>: an extension of disk images is replaced, any other kept.
    /// </summary>
    public static string For(string imagePath)
    {
        string name = Path.GetFileName(imagePath);
        string? extension = Extensions.FirstOrDefault(
            ending => name.Length > ending.Length && name.EndsWith(ending, StringComparison.OrdinalIgnoreCase));
        return name[..^(extension?.Length ?? 0)] + ".raw";
    }
}
