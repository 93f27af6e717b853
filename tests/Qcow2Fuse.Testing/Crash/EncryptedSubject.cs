// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Encryption;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>The product's engine on encrypted images.</summary>
/// <param name="encryption">How images are made.</param>
public sealed class EncryptedSubject(EncryptionOptions encryption) : ICrashSubject
{
    /// <inheritdoc/>
    public string Name =>
        $"Qcow2Device with {(encryption.Format == EncryptionFormat.Aes ? "AES" : "LUKS " + encryption.CipherMode)}";

    /// <inheritdoc/>
    public CrashFeatures Features { get; init; }

    /// <inheritdoc/>
    public bool LeaksNothing => true;

    /// <inheritdoc/>
    public bool Supports(ImageKind kind) => true;

    /// <inheritdoc/>
    public void Create(BlockDevice file, ImageKind kind) =>
        Qcow2Creator.Create(file, Qcow2Subject.OptionsOf(kind) with { Encryption = encryption });

    /// <inheritdoc/>
    public BlockDevice Open(BlockDevice file, BlockDevice? backing, BlockDevice? data) =>
        Qcow2Device.Open(file, new FormatOpenArguments { Backing = backing, Secrets = encryption.Secrets });

    /// <inheritdoc/>
    public PlainCipher CipherOf(ByteImage image) => PlainCipher.Open(image, encryption.Secrets[0].ToArray());
}
