// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Device;

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
        (string? refusal, FailureCause? cause) = WriteRefusal(file, header);
        return new ImageReferences
        {
            BackingName = header.BackingFile,
            BackingFormat = header.BackingFormat,
            NeedsDataFile = header.HasExternalData,
            DataFileName = header.DataFile,
            WriteRefusal = refusal,
            WriteRefusalCause = cause,
            WriteLoss = BitmapSet.WhyNotKept(file, header),
        };
    }

    private static (string? Refusal, FailureCause? Cause) WriteRefusal(BlockDevice file, Qcow2Header header)
    {
        if (header.IsCorrupt)
            return ("the image is marked corrupt and cannot be written", FailureCode.Damaged);
        if (header.RefcountFault is { } refcounts)
            return (refcounts.ReasonOrMessage, FailureCode.Damaged);
        if (SnapshotTable.FaultOf(file, header) is { } snapshots)
            return (snapshots.ReasonOrMessage, FailureCode.Damaged);
        if (!header.HasExternalData && (header.Autoclear & FeatureBits.RawExternalData) != 0)
            return ("the image is said to have a raw data file and has none, and cannot be written",
                FailureCode.DamagedHeader);
        if (header.EncryptionMethod == 0
            && header.Extensions.Any(static extension => extension.Type == HeaderExtension.Crypto))
            return ("the image has an encryption header and is not encrypted, and cannot be written",
                FailureCode.DamagedHeader);
        return (null, null);
    }
}
