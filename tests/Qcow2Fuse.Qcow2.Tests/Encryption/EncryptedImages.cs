// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Qcow2.Tests.Encryption;

/// <summary>Kinds of encryption that take little time to open.</summary>
internal static class EncryptedImages
{
    /// <summary>The passphrase of all of them.</summary>
    public static ReadOnlyMemory<byte> Passphrase { get; } = "a passphrase"u8.ToArray();

    /// <summary>The old method.</summary>
    public static EncryptionOptions Aes =>
        new() { Secrets = new ImageSecrets(Passphrase), Format = EncryptionFormat.Aes };

    /// <summary>LUKS with AES of 128 bits and 1000 rounds.</summary>
    public static EncryptionOptions Luks(string mode) => new()
    {
        Secrets = new ImageSecrets(Passphrase),
        CipherMode = mode,
        KeyBytes = mode.StartsWith("xts", StringComparison.Ordinal) ? 32 : 16,
        Iterations = 1000,
    };

    /// <summary>All of them, by a name for theories.</summary>
    public static EncryptionOptions Of(string name) => name is "aes" ? Aes : Luks(name);
}
