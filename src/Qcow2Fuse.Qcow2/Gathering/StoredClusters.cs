// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Linux.Codecs;
using Qcow2Fuse.Qcow2.Access;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Compression;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Gathering;

/// <summary>As what a whole cluster is stored.</summary>
internal enum ClusterForm
{
    /// <summary>As it is: it does not become smaller.</summary>
    Plain,

    /// <summary>Compressed.</summary>
    Packed,

    /// <summary>As an entry of the tables that says it reads as zeroes, where they can say it.</summary>
    Zero,
}

/// <summary>Compressed writes: what becomes of a whole cluster in the image.</summary>
internal sealed class StoredClusters
{
    private readonly ImageCore _image;
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly DurableFile _durable;
    private readonly MetadataFlush _flush;
    private readonly PackedBytes _packed;
    private readonly CompressedAllocations _allocations;
    private readonly CompressedClusters _compressed;
    private readonly GuestReader _reader;
    private readonly GuestWriter _writer;
    private readonly GuestZeroes _zeroes;
    private readonly BitmapLife _bitmaps;
    private readonly CommitTimer _commit;
    private readonly FreedSpace _freed;

    public StoredClusters(
        ImageCore image, DurableFile durable, MetadataFlush flush, PackedBytes packed,
        CompressedAllocations allocations, CompressedClusters compressed, GuestReader reader, GuestWriter writer,
        GuestZeroes zeroes, BitmapLife bitmaps, CommitTimer commit, FreedSpace freed)
    {
        _image = image;
        _geometry = image.Geometry;
        _gate = image.Gate;
        _durable = durable;
        _flush = flush;
        _packed = packed;
        _allocations = allocations;
        _compressed = compressed;
        _reader = reader;
        _writer = writer;
        _zeroes = zeroes;
        _bitmaps = bitmaps;
        _commit = commit;
        _freed = freed;
    }

    /// <summary>Whether nothing more is written, because what the file holds is not known.</summary>
    public bool HasFailed => _durable.HasFailed;

    /// <summary>Fills what the guest has not written from what the image holds, zeroes beyond its end.</summary>
    public void Complete(GatheredSlot slot)
    {
        int at = 0;
        for (int i = 0; i <= slot.Written.Count; i++)
        {
            (int start, int end) = i < slot.Written.Count
                ? slot.Written[i] : (_geometry.ClusterSize, _geometry.ClusterSize);
            if (start > at)
                _reader.ReadStored(new GuestOffset(slot.Guest + at), slot.Content[at..start]);
            at = end;
        }
    }

    /// <summary>
    /// Stores a whole cluster: as zeroes where it is nothing else, compressed, or as it is where it does not become
    /// smaller. Compresses without the gate.
    /// </summary>
    public void Store(GuestOffset guest, ReadOnlySpan<byte> cluster)
    {
        using (_gate.Enter())
            _durable.ThrowIfFailed();
        using PooledBuffer packed = BufferPool.Shared.Rent(_geometry.ClusterSize);
        ClusterForm form = Compress(cluster, packed.Span, out int length);
        StoreAs(guest, cluster, form, packed.Span[..length]);
    }

    /// <summary>
    /// Finds out as what a whole cluster is to be stored, and compresses it into <paramref name="packed"/>, which is as
    /// long as a cluster. Needs no lock.
    /// </summary>
    public ClusterForm Compress(ReadOnlySpan<byte> cluster, Span<byte> packed, out int length)
    {
        length = 0;
        if (!cluster.ContainsAnyExcept((byte)0))
            return ClusterForm.Zero;
        return TryCompress(cluster, packed, out length) ? ClusterForm.Packed : ClusterForm.Plain;
    }

    /// <summary>
    /// The second half of <see cref="Store"/> where no request of the guest waits for it: marks the image corrupt where
    /// it is.
    /// </summary>
    public void StoreInBackground(
        GuestOffset guest, ReadOnlySpan<byte> cluster, ClusterForm form, ReadOnlySpan<byte> packed)
    {
        try
        {
            using (_gate.Enter())
                _durable.ThrowIfFailed();
            StoreAs(guest, cluster, form, packed);
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            _image.Corrupt.Set();
            throw;
        }
    }

    /// <summary>
    /// Zeroes whole clusters from <paramref name="at"/> on, at most up to <paramref name="end"/>, by metadata where
    /// that can say it; returns how many bytes.
    /// </summary>
    public long Zero(long at, long end, bool mayUnmap)
    {
        bool handled;
        long step;
        using (_gate.Enter())
        {
            _durable.ThrowIfFailed();
            step = _zeroes.ZeroRecorded(at, end - at, mayUnmap, out handled);
        }

        if (!handled)
            StoreZeroBytes(new GuestOffset(at));
        return step;
    }

    /// <summary>Lets the file have the clusters that are full of compressed ones.</summary>
    public void WriteFinished() => _packed.WriteFinished();

    private bool TryCompress(ReadOnlySpan<byte> cluster, Span<byte> packed, out int length) =>
        ClusterCodecs.TryCompress(_compressed.Kind, cluster, packed, out length);

    private void StoreAs(
        GuestOffset guest, ReadOnlySpan<byte> cluster, ClusterForm form, ReadOnlySpan<byte> packed)
    {
        if (form == ClusterForm.Zero)
        {
            if (TryZero(guest))
                return;
            StoreZeroBytes(guest);
        }
        else if (form == ClusterForm.Plain || !TryStorePacked(guest, packed))
        {
            _writer.Write(guest, cluster);
        }

        _freed.FlushMany();
    }

    private bool TryZero(GuestOffset guest)
    {
        using (_gate.Enter())
        {
            _zeroes.ZeroRecorded(guest.Value, _geometry.ClusterSize, mayUnmap: true, out bool handled);
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
            _writer.Write(guest, zeroes.Span);
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
                    _durable.ThrowIfFailed();
                    bool isLinked = _allocations.Link(guest, packed, _compressed) != 0;

                    // Whoever holds writes back to change bitmaps has not got the gate since the entry was linked.
                    _bitmaps.Mark(guest.Value, _geometry.ClusterSize);
                    _commit.NoteChange();
                    return isLinked;
                }
            }
            catch (BlockException e) when (e.Kind == BlockErrorKind.NoSpace && !reclaimed && _freed.IsPending
                && !_durable.HasFailed)
            {
                reclaimed = true;
                using (_gate.Enter())
                    _flush.RunAndFree();
            }
        }
    }
}
