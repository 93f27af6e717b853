// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;

namespace Qcow2Fuse.Qcow2.Encryption;

/// <summary>How the data of an image is encrypted.</summary>
public enum EncryptionFormat
{
    /// <summary>LUKS version 1 with AES.</summary>
    Luks,

    /// <summary>The old method, AES of 128 bits with the passphrase as key; insecure, for old readers only.</summary>
    Aes,
}

/// <summary>How a new image is to be encrypted.</summary>
public sealed record EncryptionOptions
{
    /// <summary>The method.</summary>
    public EncryptionFormat Format { get; init; }

    /// <summary>The passphrase: the first of these, which stay the caller's.</summary>
    public required ImageSecrets Secrets { get; init; }

    /// <summary>LUKS: chaining and initialisation vector, as the header holds them.</summary>
    public string CipherMode { get; init; } = "xts-plain64";

    /// <summary>LUKS: bytes of the master key; 64 are two keys of AES-256 for xts.</summary>
    public int KeyBytes { get; init; } = 64;

    /// <summary>LUKS: the hash for key derivation and splitting.</summary>
    public string HashName { get; init; } = "sha256";

    /// <summary>LUKS: how long trying one passphrase is to take on this machine.</summary>
    public TimeSpan IterationTime { get; init; } = TimeSpan.FromSeconds(2);

    /// <summary>LUKS: rounds of PBKDF2, or null to measure what <see cref="IterationTime"/> allows.</summary>
    public int? Iterations { get; init; }
}
