// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Qcow2.Gathering;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>What comes before an image is opened: what is wrong with it is refused, or repaired.</summary>
internal static class OpenChecks
{
    /// <summary>The header of an image that can be opened in the way that is asked for.</summary>
    /// <param name="file">The image file; changed only where it was not closed cleanly and is to be written.</param>
    /// <param name="arguments">The way.</param>
    /// <param name="isLossy">Whether something of the image is lost when it is written, which the user allows.</param>
    /// <exception cref="BlockException">The image is invalid, unsupported, or must not be written.</exception>
    public static Qcow2Header Pass(BlockDevice file, FormatOpenArguments arguments, out bool isLossy)
    {
        Qcow2Header header = Qcow2HeaderReader.Read(file);
        ImageReferences references = Qcow2Format.References(file, header);
        isLossy = references.WriteLoss is not null;
        if (!arguments.ReadOnly)
            CheckWritable(file, header, references, arguments.AllowLoss);
        if (header.HasExternalData != arguments.DataFile is not null)
            throw new BlockException(BlockErrorKind.InvalidFormat, header.HasExternalData
                ? $"{file.Name}: the external data file is missing"
                : $"{file.Name}: the image has no external data file");
        if (arguments is { ReadOnly: false, Compress: not CompressedWrites.Off })
            CompressionChoice.Check(file, header, arguments.Compress);
        return !arguments.ReadOnly && header.IsDirty ? Repair(file, arguments) : header;
    }

    private static void CheckWritable(
        BlockDevice file, Qcow2Header header, ImageReferences references, bool allowsLoss)
    {
        if ((header.RefcountFault ?? SnapshotTable.FaultOf(file, header)) is { } fault)
            throw BlockException.About(file.Name, fault.Kind, fault.ReasonOrMessage, references.WriteRefusalCause);
        if (references.WriteRefusal is { } reason)
            throw new BlockException(
                BlockErrorKind.UnsupportedFeature, $"{file.Name}: {reason}", cause: references.WriteRefusalCause);
        if (!allowsLoss && references.WriteLoss is { } loss)
            throw new BlockException(BlockErrorKind.UnsupportedFeature, $"{file.Name}: {loss}");
    }

    /// <summary>Repairs the refcounts of a dirty image before it is used, and returns its header then.</summary>
    private static Qcow2Header Repair(BlockDevice file, FormatOpenArguments arguments)
    {
        RepairResult repair = ImageRepair.Dirty(file);
        arguments.Report(new ImageMessage(
            $"{file.Name}: was not closed cleanly; its refcounts were repaired "
                + $"({repair.CorruptionsFixed} too low or marked wrong, {repair.LeaksFixed} too high)",
            Cause: null));
        return Qcow2HeaderReader.Read(file);
    }
}
