// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>What an image of a crash run looks like.</summary>
/// <param name="ClusterBits">log2 of the cluster size.</param>
/// <param name="Version">2 or 3.</param>
/// <param name="ExtendedL2">Whether it has subclusters.</param>
/// <param name="Size">The guest's size in bytes, a multiple of 512.</param>
/// <param name="BackingLength">Bytes of the backing file, −1 for none.</param>
/// <param name="PrefilledPercent">How many of 100 clusters are written before recording starts.</param>
/// <param name="Compressed">Whether some of the other clusters are compressed from the start.</param>
/// <param name="RefcountOrder">log2 of the refcount width.</param>
public sealed record ImageKind(
    int ClusterBits, int Version, bool ExtendedL2, long Size, long BackingLength, int PrefilledPercent,
    bool Compressed = false, int RefcountOrder = 4)
{
    /// <summary>Bytes in a cluster.</summary>
    public int ClusterSize => 1 << ClusterBits;

    /// <summary>Bytes in what is allocated at once: a subcluster or a cluster.</summary>
    public int SubclusterSize => ExtendedL2 ? ClusterSize / 32 : ClusterSize;

    /// <summary>Whether there is a backing file.</summary>
    public bool HasBacking => BackingLength >= 0;

    /// <summary>Whether the guest goes all over the disk rather than to a few clusters.</summary>
    public bool IsScattered => Size >> ClusterBits > 1000;

    /// <summary>A kind out of all there are.</summary>
    public static ImageKind Random(SeededRandom random)
    {
        int bits = random.Pick(9, 9, 12, 12, 14, 16, 16, 16, 21);
        bool extended = bits >= 14 && random.Chance(50);
        int version = extended || random.Chance(70) ? 3 : 2;
        int prefilled = random.Chance(50) ? random.Pick(30, 30, 100) : 0;
        ImageKind kind = Create(bits, version, extended, random.Below(4), prefilled, random);
        kind = kind with { Compressed = prefilled == 30 && random.Chance(60) };
        bool otherWidth = version == 3 && !kind.Compressed && random.Chance(50);
        return kind with { RefcountOrder = otherWidth ? random.Below(7) : 4 };
    }

    /// <summary>
    /// A kind with the given main features; backing: 0 or 1 none, 2 shorter and 3 longer than the disk.
    /// </summary>
    public static ImageKind Create(
        int bits, int version, bool extended, int backing, int prefilledPercent, SeededRandom random)
    {
        long clusters = bits switch { 9 => 200, 12 => 64, 14 => 24, 16 => 20, _ => 3 };
        long size = (clusters << bits) + (random.Chance(30) ? 512 * (1 + random.Below(1 << (bits - 9))) : 0);
        long backingLength = backing switch
        {
            2 => (size / 2) + random.Below(1024),
            3 => size + random.Below(1 << bits),
            _ => -1,
        };
        return new ImageKind(bits, version, extended, size, backingLength, prefilledPercent);
    }

    /// <inheritdoc/>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture,
        $"v{Version} clusters 2^{ClusterBits}{(ExtendedL2 ? " extended" : string.Empty)} size {Size}")
        + string.Create(CultureInfo.InvariantCulture, $" backing {BackingLength} prefilled {PrefilledPercent}%")
        + (Compressed ? " and compressed" : string.Empty)
        + (RefcountOrder == 4
            ? string.Empty : string.Create(CultureInfo.InvariantCulture, $" refcounts 2^{RefcountOrder} bits"));
}
