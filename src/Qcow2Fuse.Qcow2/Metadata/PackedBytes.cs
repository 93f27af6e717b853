// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>
/// The bytes of compressed clusters on their way to the file, through a <see cref="SequentialWriteCache"/> that makes
/// whole host clusters of them; and where they end.
/// </summary>
/// <remarks>The cache has its own lock, which is taken after the gate; the end is used with the gate held.</remarks>
internal sealed class PackedBytes : IDisposable
{
    private const int CachedBytes = 4 << 20;
    private const int CachedMin = 4;
    private const int CachedMax = 32;

    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly SequentialWriteCache _cache;

    public PackedBytes(ImageCore image)
    {
        _file = image.File;
        _geometry = image.Geometry;
        _gate = image.Gate;
        _cache = new SequentialWriteCache(
            _file, _geometry.ClusterSize, Math.Clamp(CachedBytes / _geometry.ClusterSize, CachedMin, CachedMax));
    }

    /// <summary>Host offset behind the last extent; on a cluster boundary there is nothing to continue.</summary>
    public long End { get; private set; }

    /// <summary>The first failed write; it is final. Null while there is none.</summary>
    public BlockException? Failure => _cache.Failure;

    /// <summary>Throws if a write has failed.</summary>
    public void ThrowIfFailed() => _cache.ThrowIfFailed();

    /// <summary>Whether so many more clusters can be begun without waiting.</summary>
    public bool HasRoom(int clusters) => _cache.HasRoom(clusters);

    /// <summary>Writes clusters until there is room for so many; the gate is not held.</summary>
    public void MakeRoom(int clusters) => _cache.MakeRoom(clusters);

    /// <summary>Takes an extent, for which there is room; the next one goes behind it. The gate is held.</summary>
    public void Write(HostOffset start, ReadOnlySpan<byte> bytes)
    {
        _gate.AssertHeld();
        _cache.Write(start.Value, bytes);
        End = start.Value + bytes.Length;
    }

    /// <summary>
    /// Says that the last reference to <paramref name="cluster"/> is about to go: nothing is packed into it any more,
    /// and no write of it is under way or to come when this returns. The gate is held.
    /// </summary>
    public void Forget(long cluster)
    {
        _gate.AssertHeld();
        if (End >> _geometry.ClusterBits == cluster)
            End = 0;
        _cache.Discard(cluster << _geometry.ClusterBits);
    }

    /// <summary>Reads compressed bytes, from the cache where it has them; zeroes beyond the end of the file.</summary>
    public void Read(HostOffset host, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            int step = Math.Min(
                destination.Length, _geometry.ClusterSize - (int)(host.Value & _geometry.ClusterMask));
            Span<byte> part = destination[..step];
            int cached = _cache.Read(host.Value, part);
            if (cached > 0)
                part[cached..].Clear();
            else
                _file.ReadPadded(host.Value, part);
            host += step;
            destination = destination[step..];
        }
    }

    /// <summary>Writes the clusters that are finished; the gate is not held.</summary>
    public void WriteFinished() => _cache.WriteFinished();

    /// <summary>Writes everything packed before the call; the gate is not held. The file is not flushed.</summary>
    public void Flush() => _cache.Flush();

    public void Dispose() => _cache.Dispose();
}
