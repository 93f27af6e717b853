// SPDX-License-Identifier: MIT
using System.Buffers;

namespace Qcow2Fuse.Block.Chain;

/// <summary>
/// The passphrases that a user gave for encrypted images, in order. They are tried on every encrypted image of a
/// chain, and wiped on dispose; an open image keeps its own key.
/// </summary>
public sealed class ImageSecrets : IDisposable
{
    private readonly IMemoryOwner<byte>[] _passphrases;

    /// <summary>Takes the passphrases over; their memory is such as wipes itself on dispose.</summary>
    public ImageSecrets(params IEnumerable<IMemoryOwner<byte>> passphrases) => _passphrases = [.. passphrases];

    /// <summary>
    /// Processor time for trying them on one image at most: the image says how much one trial costs.
    /// </summary>
    public TimeSpan TimeMax { get; init; } = TimeSpan.MaxValue;

    /// <summary>How many there are.</summary>
    public int Count => _passphrases.Length;

    /// <summary>Passphrase <paramref name="index"/>, any bytes.</summary>
    public ReadOnlySpan<byte> this[int index] => _passphrases[index].Memory.Span;

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (IMemoryOwner<byte> passphrase in _passphrases)
            passphrase.Dispose();
    }
}
