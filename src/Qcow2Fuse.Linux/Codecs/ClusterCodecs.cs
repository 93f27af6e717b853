// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux.Codecs;

/// <summary>How compressed clusters of an image are compressed.</summary>
public enum CompressionKind
{
    /// <summary>A raw deflate stream (RFC 1951) without header or checksum.</summary>
    Deflate,

    /// <summary>One or more Zstandard frames (RFC 8878).</summary>
    Zstd,
}

/// <summary>
/// Compression and decompression of clusters with the system's zlib and libzstd, and libdeflate where it is there. Safe
/// for any number of threads; contexts are kept for reuse, so that a call allocates no managed memory once as many
/// contexts exist as threads run.
/// </summary>
public static class ClusterCodecs
{
    private static readonly CodecPool<LibdeflateInflater> FastInflaters =
        new(static () => LibdeflateInflater.TryCreate() ?? throw new InsufficientMemoryException("no libdeflate"));

    private static readonly CodecPool<ZlibInflater> Inflaters = new(static () => new ZlibInflater());
    private static readonly CodecPool<ZstdDecoder> ZstdDecoders = new(static () => new ZstdDecoder());
    private static readonly CodecPool<ZlibDeflater> Deflaters = new(static () => new ZlibDeflater());
    private static readonly CodecPool<ZstdEncoder> ZstdEncoders = new(static () => new ZstdEncoder());

    /// <summary>
    /// Decompresses <paramref name="input"/> so that <paramref name="output"/> is filled exactly. Bytes that follow
    /// the compressed data are ignored, since its size in an image is known to whole sectors only. False if the data
    /// is damaged or yields less than <paramref name="output"/> takes; the content of <paramref name="output"/> is
    /// then undefined.
    /// </summary>
    /// <exception cref="CodecUnavailableException">The library is not installed.</exception>
    public static bool TryDecompress(CompressionKind kind, ReadOnlySpan<byte> input, Span<byte> output)
    {
        switch (kind)
        {
            case CompressionKind.Deflate:
                return (LibdeflateInflater.IsAvailable && TryInflateFast(input, output)) || TryInflate(input, output);
            case CompressionKind.Zstd:
                ZstdDecoder decoder = ZstdDecoders.Rent();
                bool decoded = decoder.TryDecode(input, output);
                ZstdDecoders.Return(decoder);
                return decoded;
            default:
                throw new ArgumentOutOfRangeException(nameof(kind), kind, "no such compression");
        }
    }

    /// <summary>
    /// Compresses <paramref name="source"/>, with matches at distances of at most 4096 bytes where the kind is deflate.
    /// False if the result would not be at least one byte shorter than <paramref name="source"/>, or not fit into
    /// <paramref name="destination"/>, whose content is then undefined.
    /// </summary>
    /// <exception cref="CodecUnavailableException">The library is not installed.</exception>
    public static bool TryCompress(
        CompressionKind kind, ReadOnlySpan<byte> source, Span<byte> destination, out int length)
    {
        destination = destination[..Math.Min(destination.Length, Math.Max(source.Length - 1, 0))];
        switch (kind)
        {
            case CompressionKind.Deflate:
                ZlibDeflater deflater = Deflaters.Rent();
                bool deflated = deflater.TryEncode(source, destination, out length);
                Deflaters.Return(deflater);
                return deflated;
            case CompressionKind.Zstd:
                ZstdEncoder encoder = ZstdEncoders.Rent();
                bool encoded = encoder.TryEncode(source, destination, out length);
                ZstdEncoders.Return(encoder);
                return encoded;
            default:
                throw new ArgumentOutOfRangeException(nameof(kind), kind, "no such compression");
        }
    }

    /// <summary>What zlib says is what counts; it also takes a stream that goes on where the cluster ends.</summary>
    internal static bool TryInflate(ReadOnlySpan<byte> input, Span<byte> output)
    {
        ZlibInflater inflater = Inflaters.Rent();
        bool inflated = inflater.TryDecode(input, output);
        Inflaters.Return(inflater);
        return inflated;
    }

    /// <summary>Decompresses a stream that ends with the cluster; false where zlib has to judge.</summary>
    internal static bool TryInflateFast(ReadOnlySpan<byte> input, Span<byte> output)
    {
        LibdeflateInflater inflater = FastInflaters.Rent();
        bool inflated = inflater.TryDecode(input, output);
        FastInflaters.Return(inflater);
        return inflated;
    }

    /// <summary>
    /// Loads the library for <paramref name="kind"/> now. A process that is going to lock itself in calls this before.
    /// </summary>
    /// <exception cref="CodecUnavailableException">The library is not installed.</exception>
    public static void Preload(CompressionKind kind)
    {
        switch (kind)
        {
            case CompressionKind.Deflate:
                if (LibdeflateInflater.IsAvailable)
                    FastInflaters.Return(FastInflaters.Rent());
                Inflaters.Return(Inflaters.Rent());
                Deflaters.Return(Deflaters.Rent());
                break;
            case CompressionKind.Zstd:
                ZstdDecoders.Return(ZstdDecoders.Rent());
                ZstdEncoders.Return(ZstdEncoders.Rent());
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(kind), kind, "no such compression");
        }
    }
}
