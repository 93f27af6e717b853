// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Encryption;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Creation;

/// <summary>What a new image is to be like.</summary>
public sealed record Qcow2CreateOptions
{
    /// <summary>Virtual size in bytes; rounded up to a multiple of 512.</summary>
    public required long Size { get; init; }

    /// <summary>Format version, 2 or 3.</summary>
    public int Version { get; init; } = 3;

    /// <summary>Cluster size in bytes, a power of two from 512 to 2 MiB.</summary>
    public int ClusterSize { get; init; } = 65536;

    /// <summary>Extended L2 entries with 32 subclusters; version 3 and clusters of 16 KiB or more.</summary>
    public bool ExtendedL2 { get; init; }

    /// <summary>Width of a refcount: 1, 2, 4, 8, 16, 32 or 64 bits; 16 in version 2.</summary>
    public int RefcountBits { get; init; } = 16;

    /// <summary>The backing file's name as the image is to hold it, up to 1023 bytes, or null.</summary>
    public string? BackingFile { get; init; }

    /// <summary>The backing file's format, or null.</summary>
    public string? BackingFormat { get; init; }

    /// <summary>How compressed clusters of the image are compressed.</summary>
    public CompressionType Compression { get; init; }

    /// <summary>How guest data is encrypted, or null for plain data.</summary>
    public EncryptionOptions? Encryption { get; init; }
}
