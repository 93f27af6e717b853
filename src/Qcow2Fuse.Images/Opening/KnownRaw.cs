// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Formats.Raw;
using Qcow2Fuse.Images.Reports;

namespace Qcow2Fuse.Images.Opening;

/// <summary>The format raw: the file is the disk.</summary>
internal sealed class KnownRaw : KnownFormat
{
    /// <inheritdoc/>
    public override IImageFormat Opener { get; } = new RawFormat();

    /// <inheritdoc/>
    public override ImageReport Describe(BlockDevice file, string name) =>
        new(name, Name, SizeOf(file), file.AllocatedBytes, Qcow2: null);

    /// <inheritdoc/>
    public override long SizeOf(BlockDevice file) => RawFormat.SizeOf(file.Length);
}
