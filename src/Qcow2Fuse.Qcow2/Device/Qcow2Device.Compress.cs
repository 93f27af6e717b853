// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Linux.Codecs;
using Qcow2Fuse.Qcow2.Compression;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>Compressed writes: what <see cref="CompressedTarget"/> does with a whole cluster.</summary>
public sealed partial class Qcow2Device
{
    /// <summary>Gathers writes into whole clusters; null where writes are not compressed.</summary>
    private readonly CompressedTarget? _target;

    /// <summary>
    /// Stores what is gathered, so that the tables say all that was written. Must be called before
    /// <see cref="ClusterMap.HoldWrites"/>, which it would wait for.
    /// </summary>
    internal void StoreGathered()
    {
        if (_target is null)
            return;
        try
        {
            _target.StoreAll();
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            MarkCorrupt();
            throw;
        }
    }

    /// <summary>
    /// As <see cref="StoreGathered"/>, and nothing more is gathered until <see cref="CompressedTarget.Resume"/>.
    /// </summary>
    private void PauseGathering()
    {
        try
        {
            _target?.Pause();
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            MarkCorrupt();
            throw;
        }
    }

    /// <summary>
    /// What the tables say about a range, without what is gathered; zeroes beyond the end. That is the end the guest
    /// sees: space that the disk is growing by holds old bytes until it is zeroed, which whoever completes a cluster
    /// would put back.
    /// </summary>
    internal void ReadStored(GuestOffset guest, Span<byte> destination) => ReadForCopy(guest, destination, Length);

    /// <summary>
    /// Stores a whole cluster: as zeroes where it is nothing else, compressed, or as it is where it does not become
    /// smaller. Compresses without the gate.
    /// </summary>
    internal void StoreCluster(GuestOffset guest, ReadOnlySpan<byte> cluster)
    {
        using (_gate.Enter())
            _caches.ThrowIfFailed();
        using PooledBuffer packed = BufferPool.Shared.Rent(_geometry.ClusterSize);
        ClusterForm form = CompressCluster(cluster, packed.Span, out int length);
        StoreAs(guest, cluster, form, packed.Span[..length]);
    }

    /// <summary>
    /// Finds out as what a whole cluster is to be stored, and compresses it into <paramref name="packed"/>, which is as
    /// long as a cluster. Needs no lock.
    /// </summary>
    internal ClusterForm CompressCluster(ReadOnlySpan<byte> cluster, Span<byte> packed, out int length)
    {
        length = 0;
        if (!cluster.ContainsAnyExcept((byte)0))
            return ClusterForm.Zero;
        return TryCompress(cluster, packed, out length) ? ClusterForm.Packed : ClusterForm.Plain;
    }

    /// <summary>
    /// The second half of <see cref="StoreCluster"/> where no request of the guest waits for it: marks the image
    /// corrupt where it is.
    /// </summary>
    internal void StoreInBackground(
        GuestOffset guest, ReadOnlySpan<byte> cluster, ClusterForm form, ReadOnlySpan<byte> packed)
    {
        try
        {
            using (_gate.Enter())
                _caches.ThrowIfFailed();
            StoreAs(guest, cluster, form, packed);
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            MarkCorrupt();
            throw;
        }
    }

    /// <summary>
    /// Zeroes whole clusters from <paramref name="at"/> on, at most up to <paramref name="end"/>, by metadata where
    /// that can say it; returns how many bytes.
    /// </summary>
    internal long ZeroStored(long at, long end, bool mayUnmap)
    {
        bool handled;
        long step;
        using (_gate.Enter())
        {
            _caches.ThrowIfFailed();
            step = ZeroRecorded(at, end - at, mayUnmap, out handled);
        }

        if (!handled)
            StoreZeroBytes(new GuestOffset(at));
        return step;
    }

    /// <summary>Whether nothing more is written, because what the file holds is not known.</summary>
    internal bool HasFailed => _caches.HasFailed;

    /// <summary>Lets the file have the clusters that are full of compressed ones.</summary>
    internal void WriteFinishedClusters() => _caches.Packed!.WriteFinished();

    /// <summary>Refuses what cannot be compressed, and loads the library that compresses.</summary>
    private static void CheckCompression(BlockDevice file, Qcow2Header header, CompressedWrites wanted)
    {
        if (header.HasExternalData)
            throw new BlockException(BlockErrorKind.NotSupported,
                $"{file.Name}: an image with an external data file has no compressed clusters");
        if (header.EncryptionMethod != 0)
            throw new BlockException(BlockErrorKind.NotSupported,
                $"{file.Name}: an encrypted image has no compressed clusters");
        bool isZstd = header.Compression == CompressionType.Zstd;
        if (wanted == (isZstd ? CompressedWrites.Zlib : CompressedWrites.Zstd))
        {
            (string has, string other) = isZstd ? ("zstd", "zlib") : ("zlib", "zstd");
            throw new BlockException(BlockErrorKind.NotSupported,
                $"{file.Name}: the image compresses with {has}, not {other}",
                cause: new(FailureCode.CompressionDiffers) { Name = other });
        }

        try
        {
            ClusterCodecs.Preload(isZstd ? CompressionKind.Zstd : CompressionKind.Deflate);
        }
        catch (CodecUnavailableException e)
        {
            throw new BlockException(BlockErrorKind.NotSupported, $"{file.Name}: {e.Message}", e,
                new(FailureCode.PackageMissing) { Name = e.Package });
        }
    }

    private bool TryCompress(ReadOnlySpan<byte> cluster, Span<byte> packed, out int length) =>
        ClusterCodecs.TryCompress(_compressed.Kind, cluster, packed, out length);

    private void StoreAs(
        GuestOffset guest, ReadOnlySpan<byte> cluster, ClusterForm form, ReadOnlySpan<byte> packed)
    {
        if (form == ClusterForm.Zero)
        {
            if (TryZeroStored(guest))
                return;
            StoreZeroBytes(guest);
        }
        else if (form == ClusterForm.Plain || !TryStorePacked(guest, packed))
        {
            WriteGuest(guest, cluster);
        }

        FlushManyPending();
    }

    private bool TryZeroStored(GuestOffset guest)
    {
        using (_gate.Enter())
        {
            ZeroRecorded(guest.Value, _geometry.ClusterSize, mayUnmap: true, out bool handled);
            return handled;
        }
    }

    /// <summary>For tables that cannot say that a cluster reads as zeroes.</summary>
    private void StoreZeroBytes(GuestOffset guest)
    {
        using PooledBuffer zeroes = BufferPool.Shared.Rent(_geometry.ClusterSize);
        using PooledBuffer packed = BufferPool.Shared.Rent(_geometry.ClusterSize);
        zeroes.Span.Clear();
        if (!TryCompress(zeroes.Span, packed.Span, out int length) || !TryStorePacked(guest, packed.Span[..length]))
            WriteGuest(guest, zeroes.Span);
    }

    private bool TryStorePacked(GuestOffset guest, ReadOnlySpan<byte> packed)
    {
        bool reclaimed = false;
        while (true)
        {
            try
            {
                using (_gate.Enter())
                {
                    _caches.ThrowIfFailed();
                    bool isLinked = _map.LinkCompressed(guest, packed, _compressed) != 0;

                    // Whoever holds writes back to change bitmaps has not got the gate since the entry was linked.
                    _bitmaps!.Mark(guest.Value, _geometry.ClusterSize);
                    NoteChange();
                    return isLinked;
                }
            }
            catch (BlockException e) when (e.Kind == BlockErrorKind.NoSpace && !reclaimed && HasPendingFrees()
                && !_caches.HasFailed)
            {
                reclaimed = true;
                using (_gate.Enter())
                    _caches.FlushAndFree();
            }
        }
    }
}
