// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Qcow2;

/// <summary>The qcow2 format as the chain opener sees it.</summary>
public sealed class Qcow2Format : IImageFormat
{
    /// <inheritdoc/>
    public string Name => "qcow2";

    /// <inheritdoc/>
    public bool Probe(ReadOnlySpan<byte> head) => Qcow2HeaderReader.Probe(head);

    /// <inheritdoc/>
    public ImageReferences Inspect(BlockDevice file) => References(file, Qcow2HeaderReader.Read(file));

    /// <inheritdoc/>
    public BlockDevice Open(BlockDevice file, FormatOpenArguments arguments) => Qcow2Device.Open(file, arguments);

    /// <summary>What a valid header names, and what keeps the image from being written.</summary>
    internal static ImageReferences References(BlockDevice file, Qcow2Header header)
    {
        bool rawData = (header.Autoclear & FeatureBits.RawExternalData) != 0;
        if (header.HasExternalData && rawData && header.BackingFile is not null)
            throw new BlockException(BlockErrorKind.InvalidFormat,
                $"{file.Name}: a raw external data file and a backing file exclude each other");
        (string? refusal, string? hint) = WriteRefusal(header);
        return new ImageReferences
        {
            BackingName = header.BackingFile,
            BackingFormat = header.BackingFormat,
            NeedsDataFile = header.HasExternalData,
            DataFileName = header.DataFile,
            WriteRefusal = refusal,
            WriteRefusalHint = hint,
            WriteLoss = BitmapSet.WhyNotKept(file, header),
        };
    }

    private static (string? Refusal, string? Hint) WriteRefusal(Qcow2Header header)
    {
        if (header.IsCorrupt)
            return ("the image is marked corrupt and cannot be written",
                "mount it read-only with -r, or repair a copy with qemu-img check -r all");
        return (null, null);
    }
}
