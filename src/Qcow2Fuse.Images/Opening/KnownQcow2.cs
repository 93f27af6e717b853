// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Images.Reports;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Qcow2.Device;

namespace Qcow2Fuse.Images.Opening;

/// <summary>The format qcow2.</summary>
internal sealed class KnownQcow2 : KnownFormat
{
    /// <inheritdoc/>
    public override IImageFormat Opener { get; } = new Qcow2Format();

    /// <inheritdoc/>
    public override bool HasSnapshots => true;

    /// <inheritdoc/>
    public override ImageReport Describe(BlockDevice file, string name)
    {
        Qcow2ImageInfo image = Qcow2ImageInfo.Read(file);
        return new ImageReport(name, Name, image.VirtualSize, file.AllocatedBytes, image);
    }

    /// <inheritdoc/>
    public override long SizeOf(BlockDevice file) => Qcow2ImageInfo.Read(file).VirtualSize;

    /// <inheritdoc/>
    public override Qcow2HeaderInfo? ReadHeader(BlockDevice file) => Qcow2HeaderInfo.Read(file);

    /// <inheritdoc/>
    public override CheckResult Check(BlockDevice file, MemoryBudget? memory = null) =>
        ImageChecker.Check(file, memory);

    /// <inheritdoc/>
    public override RepairResult RepairLeaks(BlockDevice file) => ImageRepair.Leaks(file);

    /// <inheritdoc/>
    public override IReadOnlyCollection<SnapshotInfo> ReadSnapshots(BlockDevice file) =>
        Qcow2ImageInfo.Read(file).Snapshots;

    /// <inheritdoc/>
    public override BlockDevice OpenForSnapshots(BlockDevice file, ImageSecrets? secrets) =>
        Qcow2ImageInfo.Read(file).HasExternalData
            ? throw BlockException.About(
                file.Name, BlockErrorKind.NotSupported, "an image with an external data file cannot have snapshots")
            : Opener.Open(file, new FormatOpenArguments { Secrets = secrets });
}
