// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Linux.Codecs;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Compression;

/// <summary>
/// Reads compressed clusters and keeps the last few decompressed, as sequential readers ask for a cluster in many
/// small pieces. Safe to use from any thread; does not use the image's gate.
/// </summary>
internal sealed class CompressedClusters : IDisposable
{
    private const int KeptBytes = 4 << 20;
    private const int KeptMin = 4;
    private const int KeptMax = 64;

    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly PackedBytes? _packed;
    private readonly Lock _lock = new();
    private readonly Slot[] _slots;
    private long _clock;

    public CompressedClusters(
        BlockDevice file, Qcow2Geometry geometry, CompressionType compression, PackedBytes? packed = null)
    {
        _file = file;
        _geometry = geometry;
        _packed = packed;
        Kind = compression == CompressionType.Zstd ? CompressionKind.Zstd : CompressionKind.Deflate;
        _slots = new Slot[Math.Clamp(KeptBytes / geometry.ClusterSize, KeptMin, KeptMax)];
    }

    /// <summary>How the clusters of the image are compressed.</summary>
    public CompressionKind Kind { get; }

    /// <summary>
    /// Reads from the cluster that <paramref name="descriptor"/> describes, from <paramref name="inCluster"/> on.
    /// The caller's epoch keeps the compressed bytes from being reused meanwhile.
    /// </summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Io"/> where the stream is damaged.</exception>
    public void Read(ulong descriptor, int inCluster, Span<byte> destination)
    {
        if (TryReadKept(descriptor, inCluster, destination))
            return;
        using PooledBuffer cluster = BufferPool.Shared.Rent(_geometry.ClusterSize);
        Decompress(descriptor, cluster.Span);
        cluster.Span.Slice(inCluster, destination.Length).CopyTo(destination);
        Keep(descriptor, cluster.Span);
    }

    /// <summary>
    /// Says that other bytes have the descriptor now. Whoever read the old ones has ended: their place was free.
    /// </summary>
    public void Forget(ulong descriptor)
    {
        lock (_lock)
        {
            foreach (ref Slot slot in _slots.AsSpan())
            {
                if (slot.Descriptor == descriptor)
                    slot.Descriptor = 0;
            }
        }
    }

    public void Dispose()
    {
        foreach (Slot slot in _slots)
        {
            if (slot.IsUsed)
                slot.Content.Dispose();
        }
    }

    private bool TryReadKept(ulong descriptor, int inCluster, Span<byte> destination)
    {
        lock (_lock)
        {
            for (int i = 0; i < _slots.Length; i++)
            {
                ref Slot slot = ref _slots[i];
                if (!slot.IsUsed || slot.Descriptor != descriptor)
                    continue;
                slot.Content.Span.Slice(inCluster, destination.Length).CopyTo(destination);
                slot.LastUse = ++_clock;
                return true;
            }
        }

        return false;
    }

    private void Keep(ulong descriptor, ReadOnlySpan<byte> cluster)
    {
        lock (_lock)
        {
            int oldest = 0;
            for (int i = 1; i < _slots.Length; i++)
            {
                if (_slots[i].LastUse < _slots[oldest].LastUse)
                    oldest = i;
            }

            ref Slot slot = ref _slots[oldest];
            if (!slot.IsUsed)
                slot.Content = BufferPool.Shared.Rent(_geometry.ClusterSize);
            slot.IsUsed = true;
            cluster.CopyTo(slot.Content.Span);
            slot.Descriptor = descriptor;
            slot.LastUse = ++_clock;
        }
    }

    private void Decompress(ulong descriptor, Span<byte> cluster)
    {
        CompressedExtent extent = CompressedExtent.Decode(descriptor, _geometry);
        if (_packed is null && extent.Host.Value >= _file.Length)
            throw new BlockException(BlockErrorKind.Io,
                $"{_file.Name}: compressed cluster at {extent.Host.Value} lies beyond the end of the file");
        using PooledBuffer input = BufferPool.Shared.Rent(extent.BytesMax);
        if (_packed is null)
            _file.ReadPadded(extent.Host.Value, input.Span);
        else
            _packed.Read(extent.Host, input.Span);
        if (!TryDecompress(input.Span, cluster))
            throw new BlockException(BlockErrorKind.Io,
                $"{_file.Name}: compressed cluster at {extent.Host.Value} is damaged");
    }

    private bool TryDecompress(ReadOnlySpan<byte> input, Span<byte> cluster)
    {
        try
        {
            return ClusterCodecs.TryDecompress(Kind, input, cluster);
        }
        catch (CodecUnavailableException e)
        {
            throw new BlockException(BlockErrorKind.Io, $"{_file.Name}: {e.Message}", e,
                new(FailureCode.PackageMissing) { Name = e.Package });
        }
    }

    private struct Slot
    {
        public bool IsUsed;
        public ulong Descriptor;
        public long LastUse;
        public PooledBuffer Content;
    }
}
