// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing;

/// <content>Images of the product's own engine.</content>
public sealed partial class TestImage
{
    /// <summary>A new image, open for writing.</summary>
    /// <param name="options">What it is like; a backing file that is named must be called <c>backing.raw</c>.</param>
    /// <param name="backing">The backing file's bytes; the options may leave its name out.</param>
    /// <param name="arguments">How it is opened each time; the backing device is added.</param>
    public static TestImage Create(
        Qcow2CreateOptions options, byte[]? backing = null, FormatOpenArguments? arguments = null)
    {
        if (backing is not null && options.BackingFile is null)
            options = options with { BackingFile = "backing.raw", BackingFormat = "raw" };
        if (options.Encryption is { } encryption)
            arguments = (arguments ?? new FormatOpenArguments()) with { Secrets = encryption.Secrets };
        return new TestImage(
            file => Qcow2Creator.Create(file, options), Opener(arguments), backing, opened: true,
            options.Encryption?.Secrets[0].ToArray());
    }

    /// <summary>An image of 64 clusters out of the <see cref="Qcow2MatrixAttribute"/>.</summary>
    public static TestImage Create(int version, int clusterSize, bool extendedL2, byte[]? backing = null) => Create(
        new Qcow2CreateOptions
        {
            Size = 64L * clusterSize,
            Version = version,
            ClusterSize = clusterSize,
            ExtendedL2 = extendedL2,
        },
        backing);

    /// <summary>
    /// An image made elsewhere, with the bytes of its backing file or null; opened unless told not to.
    /// </summary>
    public static TestImage Load(
        ByteImage image, byte[]? backing = null, FormatOpenArguments? arguments = null, bool opened = true) =>
        new(file => file.Write(0, image.ToArray()), Opener(arguments), backing, opened);

    private static Func<BlockDevice, BlockDevice?, BlockDevice> Opener(FormatOpenArguments? arguments) =>
        (file, below) => Qcow2Device.Open(file, (arguments ?? new FormatOpenArguments()) with { Backing = below });
}
