// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Chain;

/// <summary>Which format a file is of, by what it begins with.</summary>
public static class FormatProbe
{
    private const int HeadBytes = 512;

    /// <summary>
    /// The format whose magic a file carries; null for a file that could be a raw disk. Raw has no magic and is never
    /// guessed: a guest could write the header of another format to its disk, and files of the host would be read
    /// through the names in it.
    /// </summary>
    /// <param name="formats">The formats that are known.</param>
    /// <param name="file">The file.</param>
    /// <param name="path">Its path, not escaped.</param>
    /// <exception cref="BlockException">
    /// It is known to be no disk, or of a format that is known by its magic only: what a guest sees of such a file is
    /// not the file.
    /// </exception>
    public static IImageFormat? Find(IEnumerable<IImageFormat> formats, BlockDevice file, string path)
    {
        Span<byte> head = stackalloc byte[HeadBytes];
        head = head[..(int)Math.Min(HeadBytes, file.Length)];
        file.Read(0, head);
        foreach (IImageFormat format in formats)
        {
            if (format.Probe(head))
                return format;
        }

        if (ForeignFormat.NameOf(head) is { } foreign)
        {
            throw new BlockException(
                BlockErrorKind.UnsupportedFeature,
                $"{file.Name}: is an image of the format {foreign}, which is not read here",
                cause: new(FailureCode.OtherFormat) { File = path, Name = foreign });
        }

        return FileSignature.Find(head) is not var (text, code) ? null
            : throw new BlockException(
                BlockErrorKind.InvalidFormat, $"{file.Name}: {text}", cause: new(code) { File = path });
    }
}
