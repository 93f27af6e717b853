// SPDX-License-Identifier: MIT
using System.Security.Cryptography;

namespace Qcow2Fuse.Block;

/// <summary>
/// The passphrases that a user gave for encrypted images, in order. They are tried on every encrypted image of a
/// chain, and wiped on dispose; an open image keeps its own key.
/// </summary>
public sealed class ImageSecrets : IDisposable
{
    private readonly byte[][] _passphrases;

    /// <summary>Takes copies of the passphrases; the caller wipes its own.</summary>
    public ImageSecrets(params IEnumerable<ReadOnlyMemory<byte>> passphrases)
    {
        _passphrases = [.. passphrases.Select(static passphrase =>
        {
            // Pinned: the garbage collector would leave copies behind when it moves them.
            byte[] copy = GC.AllocateUninitializedArray<byte>(passphrase.Length, pinned: true);
            passphrase.CopyTo(copy);
            return copy;
        })];
    }

    /// <summary>
    /// Processor time for trying them on one image at most: the image says how much one trial costs.
    /// </summary>
    public TimeSpan TimeMax { get; init; } = TimeSpan.MaxValue;

    /// <summary>What a user can do whose image needs more time, or null.</summary>
    public string? TimeHint { get; init; }

    /// <summary>How many there are.</summary>
    public int Count => _passphrases.Length;

    /// <summary>Passphrase <paramref name="index"/>, any bytes.</summary>
    public ReadOnlySpan<byte> this[int index] => _passphrases[index];

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (byte[] passphrase in _passphrases)
            CryptographicOperations.ZeroMemory(passphrase);
    }
}
