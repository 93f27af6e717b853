// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Linux.Crypto;
using Qcow2Fuse.Qcow2.Encryption;

namespace Qcow2Fuse.Qcow2.Tests.Encryption;

/// <summary>Kinds of encryption that take little time to open.</summary>
internal static class EncryptedImages
{
    /// <summary>The passphrase of all of them.</summary>
    public static ReadOnlyMemory<byte> Passphrase { get; } = "a passphrase"u8.ToArray();

    /// <summary>One passphrase.</summary>
    public static ImageSecrets Secrets(ReadOnlySpan<byte> passphrase) => new(new SecretMemory(passphrase));

    /// <summary>The old method.</summary>
    public static EncryptionOptions Aes =>
        new() { Secrets = Secrets(Passphrase.Span), Format = EncryptionFormat.Aes };

    /// <summary>LUKS with AES of 128 bits and 1000 rounds.</summary>
    public static EncryptionOptions Luks(string mode) => new()
    {
        Secrets = Secrets(Passphrase.Span),
        CipherMode = mode,
        KeyBytes = mode.StartsWith("xts", StringComparison.Ordinal) ? 32 : 16,
        Iterations = 1000,
    };

    /// <summary>All of them, by a name for theories.</summary>
    public static EncryptionOptions Of(string name) => name is "aes" ? Aes : Luks(name);
}
