// SPDX-License-Identifier: MIT
using System.Security.Cryptography;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Mounts;

/// <summary>Names of the raw files in a mount.</summary>
internal static class RawFileName
{
    /// <summary>What every raw file ends in.</summary>
    public const string Ending = ".raw";

    /// <summary>255 bytes, less <c>.pN.raw</c> with five digits and a few dots.</summary>
    private const int StemBytesMax = 240;

    private const int MarkBytes = 16;

    private static readonly string[] Extensions = [".qcow2", ".qcow", ".img", Ending];

    /// <summary>What the name of an image may have behind that of its raw file; the usual first, and none last.
    /// </summary>
    public static IReadOnlyList<string> Endings { get; } = [.. Extensions, ""];

    /// <summary><c>disk.raw</c> for <c>/srv/disk.qcow2</c>: an extension of disk images is replaced, any other kept.
    /// </summary>
    public static string For(string imagePath) => Fitting(StemOf(Path.GetFileName(imagePath))) + Ending;

    /// <summary>
    /// The name of an image of a directory, which its raw file has with <see cref="Ending"/> behind it. No two images
    /// are called alike, and none as a partition is, <c>NAME.pN</c>: an image whose own name would clash keeps all of
    /// its file's name. It depends on nothing but the files that are there, whatever came first.
    /// </summary>
    /// <param name="file">The image's file name.</param>
    /// <param name="isImage">Whether a name is that of an image in the directory.</param>
    public static string In(string file, Func<string, bool> isImage)
    {
        string stem = StemOf(file);
        bool hasExtension = stem.Length < file.Length;
        string name = hasExtension && (IsPartition(stem) || isImage(stem) || IsBehind(file, stem, isImage))
            ? file : stem;

        // What a file without an extension that is called as a partition is called instead, and one whose name is too
        // long, may be another's name.
        string fitting = Fitting(name);
        bool isPartition = IsPartition(fitting);
        if (!isPartition && string.Equals(fitting, name, StringComparison.Ordinal))
            return name;
        fitting += isPartition ? "." : "";
        while (Endings.Any(ending => isImage(fitting + ending)))
            fitting += ".";
        return fitting;
    }

    private static string StemOf(string name)
    {
        string? extension = Extensions.FirstOrDefault(
            ending => name.Length > ending.Length && name.EndsWith(ending, StringComparison.OrdinalIgnoreCase));
        return name[..^(extension?.Length ?? 0)];
    }

    /// <summary>Whether another image that differs in its extension alone comes before this one.</summary>
    private static bool IsBehind(string file, string stem, Func<string, bool> isImage)
    {
        foreach (string extension in Extensions)
        {
            if (string.Equals(file, stem + extension, StringComparison.Ordinal))
                return false;
            if (isImage(stem + extension))
                return true;
        }

        return false;
    }

    /// <summary>
    /// A name with which the names of the disk and of its partitions are not too long for a file: the beginning of a
    /// longer one, and what tells it from others that begin so.
    /// </summary>
    private static string Fitting(string stem)
    {
        if (stem.Length <= StemBytesMax / 3)
            return stem;
        byte[] bytes = ByteText.Encode(stem);
        if (bytes.Length <= StemBytesMax)
            return stem;
        string mark = "~" + Convert.ToHexString(SHA256.HashData(bytes).AsSpan(0, MarkBytes));
        int end = StemBytesMax - mark.Length;

        // Not within a character.
        while (end > 0 && (bytes[end] & 0xC0) == 0x80)
            end--;
        return ByteText.Decode(bytes.AsSpan(0, end)) + mark;
    }

    /// <summary>Whether a name without its ending is a partition's: it ends in <c>.pN</c>.</summary>
    private static bool IsPartition(string stem)
    {
        int digits = stem.AsSpan().LastIndexOfAnyExceptInRange('0', '9') + 1;
        return digits < stem.Length && stem.AsSpan(0, digits).EndsWith(".p", StringComparison.Ordinal);
    }
}
