// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Chain;

/// <summary>
/// What a file is that was taken for an image and is none: for the message only, never to open it. A raw disk may begin
/// with anything, so nothing is concluded from what is not known.
/// </summary>
internal static class FileSignature
{
    /// <summary>Where the magic of a tar archive lies, and how much of a file has to be looked at.</summary>
    private const int TarMagic = 257;

    /// <summary>
    /// "is a gzip file" and the code of what can be done, or null for a file that could be a raw disk.
    /// </summary>
    /// <param name="head">The first bytes, 512 or the whole file.</param>
    public static (string Text, FailureCode Code)? Find(ReadOnlySpan<byte> head)
    {
        if (head.IsEmpty)
            return ("is empty, not an image", FailureCode.NotAnImage);
        return FindPacked(head) is { } packed ? ($"is {packed}, not an image", FailureCode.Packed)
            : IsMarkup(head) ? ("is a page of the web (HTML or XML), not an image", FailureCode.NotAnImage)
            : null;
    }

    private static string? FindPacked(ReadOnlySpan<byte> head) =>
        head.StartsWith((ReadOnlySpan<byte>)[0x1F, 0x8B]) ? "a gzip file"
        : head.StartsWith((ReadOnlySpan<byte>)[0xFD, (byte)'7', (byte)'z', (byte)'X', (byte)'Z', 0]) ? "an xz file"
        : head.StartsWith((ReadOnlySpan<byte>)[0x28, 0xB5, 0x2F, 0xFD]) ? "a zstd file"
        : head.StartsWith((ReadOnlySpan<byte>)[0x04, 0x22, 0x4D, 0x18]) ? "a lz4 file"
        : head.StartsWith("BZh"u8) ? "a bzip2 file"
        : head.StartsWith("PK\u0003\u0004"u8) ? "a zip archive"
        : head.StartsWith((ReadOnlySpan<byte>)[(byte)'7', (byte)'z', 0xBC, 0xAF, 0x27, 0x1C]) ? "a 7z archive"
        : head.StartsWith("Rar!"u8) ? "a rar archive"
        : head.Length > TarMagic && head[TarMagic..].StartsWith("ustar"u8) ? "a tar archive (an OVA is one)"
        : null;

    private static bool IsMarkup(ReadOnlySpan<byte> head)
    {
        ReadOnlySpan<byte> text = head.TrimStart((ReadOnlySpan<byte>)[0xEF, 0xBB, 0xBF, (byte)' ', 9, 10, 13]);
        return text.StartsWith("<!"u8) || text.StartsWith("<?xml"u8) || text.StartsWith("<html"u8)
            || text.StartsWith("<HTML"u8);
    }
}
