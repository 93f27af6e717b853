// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Linux.Crypto;

namespace Qcow2Fuse.Qcow2.Encryption;

/// <summary>
/// The anti-forensic splitter of LUKS (On-Disk Format Specification 1.2.3, section 2.4): a key is spread over many
/// stripes, each of which is needed to get it back, so that destroying a few bytes on disk destroys it.
/// </summary>
internal static class AntiForensic
{
    /// <summary>Gets <paramref name="key"/> back from stripes of its length.</summary>
    public static void Merge(ReadOnlySpan<byte> split, Span<byte> key, CryptoHash hash)
    {
        int last = split.Length - key.Length;
        Accumulate(split[..last], key, hash);
        Xor(key, split[last..]);
    }

    /// <summary>Spreads <paramref name="key"/> over stripes, all but the last of which are random.</summary>
    public static void Split(ReadOnlySpan<byte> key, Span<byte> split, CryptoHash hash)
    {
        int last = split.Length - key.Length;
        CryptoHash.FillRandom(split[..last]);
        using SecretMemory sum = new(key.Length);
        Accumulate(split[..last], sum.Span, hash);
        sum.Span.CopyTo(split[last..]);
        Xor(split[last..], key);
    }

    private static void Accumulate(ReadOnlySpan<byte> stripes, Span<byte> sum, CryptoHash hash)
    {
        sum.Clear();
        for (int at = 0; at < stripes.Length; at += sum.Length)
        {
            Xor(sum, stripes.Slice(at, sum.Length));
            Diffuse(sum, hash);
        }
    }

    /// <summary>Every block of the hash's size becomes the hash of its number and itself.</summary>
    private static void Diffuse(Span<byte> data, CryptoHash hash)
    {
        const int HashBytesMax = 64;
        const int NumberBytes = 4;
        Span<byte> input = stackalloc byte[NumberBytes + HashBytesMax];
        Span<byte> output = stackalloc byte[HashBytesMax];
        output = output[..hash.Size];
        uint number = 0;
        while (!data.IsEmpty)
        {
            Span<byte> block = data[..Math.Min(hash.Size, data.Length)];
            BinaryPrimitives.WriteUInt32BigEndian(input, number++);
            block.CopyTo(input[NumberBytes..]);
            hash.Digest(input[..(NumberBytes + block.Length)], output);
            output[..block.Length].CopyTo(block);
            data = data[block.Length..];
        }

        input.Clear();
        output.Clear();
    }

    private static void Xor(Span<byte> target, ReadOnlySpan<byte> source)
    {
        for (int i = 0; i < target.Length; i++)
            target[i] ^= source[i];
    }
}
