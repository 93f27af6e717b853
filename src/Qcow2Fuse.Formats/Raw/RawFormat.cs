// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Formats.Raw;

/// <summary>The format without a format: the file is the disk. It has no magic and must be asked for by name.</summary>
public sealed class RawFormat : IImageFormat
{
    private const long SectorBytes = 512;

    /// <inheritdoc/>
    public string Name => "raw";

    /// <summary>The size of a disk that a file of some length holds, in whole sectors as QEMU gives it.</summary>
    /// <param name="fileBytes">Length of the file in bytes.</param>
    public static long SizeOf(long fileBytes) =>
        fileBytes > long.MaxValue - SectorBytes ? fileBytes : (fileBytes + SectorBytes - 1) & -SectorBytes;

    /// <inheritdoc/>
    public bool Probe(ReadOnlySpan<byte> head) => false;

    /// <inheritdoc/>
    public ImageReferences Inspect(BlockDevice file) => new();

    /// <inheritdoc/>
    public BlockDevice Open(BlockDevice file, FormatOpenArguments arguments)
    {
        if (arguments.Backing is not null)
            throw new BlockException(BlockErrorKind.NotSupported, $"{file.Name}: a raw image has no backing file");
        if (arguments.Compress != CompressedWrites.Off)
            throw new BlockException(BlockErrorKind.NotSupported, $"{file.Name}: a raw image has no compression");
        return new RawDevice(file, arguments.ReadOnly, arguments.Discard);
    }
}
