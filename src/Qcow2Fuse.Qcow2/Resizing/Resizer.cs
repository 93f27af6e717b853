// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Access;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Resizing;

/// <summary>Growing and shrinking of the virtual disk.</summary>
internal sealed class Resizer
{
    private const int SectorBytes = 512;

    private readonly ImageCore _image;
    private readonly BlockDevice _data;
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly DiskSize _size;
    private readonly ImageMetadata _metadata;
    private readonly WriteHold _hold;
    private readonly DiskCut _cut;
    private readonly GuestZeroes _zeroes;
    private readonly Preallocator _preallocator;
    private readonly BitmapLife _bitmaps;
    private readonly FirstWrite _firstWrite;
    private readonly Flusher _flusher;
    private readonly IGathered? _gathered;

    public Resizer(
        ImageCore image, ImageMetadata metadata, WriteHold hold, DiskCut cut, GuestZeroes zeroes,
        Preallocator preallocator, BitmapLife bitmaps, FirstWrite firstWrite, Flusher flusher, IGathered? gathered)
    {
        _image = image;
        _data = image.Data;
        _geometry = image.Geometry;
        _gate = image.Gate;
        _size = image.Size;
        _metadata = metadata;
        _hold = hold;
        _cut = cut;
        _zeroes = zeroes;
        _preallocator = preallocator;
        _bitmaps = bitmaps;
        _firstWrite = firstWrite;
        _flusher = flusher;
        _gathered = gathered;
    }

    /// <summary>Changes the size of the disk, a multiple of 512 bytes.</summary>
    /// <remarks>
    /// <para>
    /// Growing: a larger L1 table is durable before the header points at it. Whatever old entries, a longer backing
    /// file or the rest of the last cluster would show is zeroed, and durably so, before the size in the header
    /// follows last.
    /// </para>
    /// <para>
    /// Shrinking: the size in the header is durable first; only then is what lies beyond it given up. A crash between
    /// the two leaves entries beyond the end, which nobody can see and which growing zeroes.
    /// </para>
    /// </remarks>
    /// <param name="length">The new size in bytes.</param>
    /// <param name="preallocation">What is done for the storage of new space; ignored when shrinking.</param>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.OutOfRange"/> for a size that is no multiple of 512,
    /// <see cref="BlockErrorKind.TooLarge"/> where the L1 table would exceed 32 MiB,
    /// <see cref="BlockErrorKind.NotSupported"/> for a version 2 image with snapshots, which do not hold the size of
    /// their disk: that of the image would become theirs.
    /// </exception>
    public void Resize(long length, Preallocation preallocation)
    {
        _firstWrite.Begin();
        if (_gathered is not null)
            _image.Corrupt.Guard(_gathered.StoreAll);
        if (length < 0 || length % SectorBytes != 0)
            throw BlockException.About(
                _image.Name, BlockErrorKind.OutOfRange, $"size {length} is not a multiple of {SectorBytes}");
        long entries = _geometry.L1EntriesFor(length);
        if (entries > Qcow2HeaderReader.L1BytesMax / 8)
            throw BlockException.About(
                _image.Name, BlockErrorKind.TooLarge, $"{length} bytes need too large an L1 table");
        lock (_image.ChangeLock)
        {
            if (length == _size.Length)
                return;
            RefuseForSnapshots();
            using (_gate.Enter())
                _bitmaps.BeginResize(length);
            try
            {
                // What is damaged is marked before bitmaps are stored.
                _image.Corrupt.Guard(() => Change(length, (int)entries, preallocation));
            }
            finally
            {
                using (_gate.Enter())
                    _bitmaps.EndResize();
            }
        }
    }

    private void Change(long length, int entries, Preallocation preallocation)
    {
        if (length < _size.Length)
            ShrinkStored(length);
        else
            Grow(length, entries, preallocation);
    }

    private void Grow(long length, int entries, Preallocation preallocation)
    {
        long old = _size.Length;
        using (_gate.Enter())
        {
            if (entries > _metadata.Tables.L1.Count)
                GrowL1(entries);
        }

        bool isRaw = _image.IsRawExternal;
        if (isRaw && _data.Length < length)
            _data.Resize(length);
        _size.BeginGrowing(length);
        try
        {
            _zeroes.Zero(old, length - old, mayUnmap: true);

            // A raw data file holds the whole disk, and its tables say so.
            if (preallocation == Preallocation.Off && isRaw)
                preallocation = Preallocation.Metadata;
            if (preallocation != Preallocation.Off)
                _preallocator.Allocate(old, length, preallocation);
            _flusher.Flush();
            using (_gate.Enter())
            {
                WriteSize(length);
                _bitmaps.Resize(length);
                _size.Length = length;
            }
        }
        finally
        {
            _size.EndGrowing();
        }
    }

    /// <summary>Nothing may be gathered for what is cut off.</summary>
    private void ShrinkStored(long length)
    {
        _gathered?.Pause();
        try
        {
            Shrink(length);
        }
        finally
        {
            _gathered?.Resume();
        }
    }

    private void Shrink(long length)
    {
        bool isRaw = _image.IsRawExternal;
        using (_gate.Enter())
        {
            _hold.HoldWrites();
            long old = _size.Length;
            try
            {
                _metadata.Flush.Run();
                _cut.Check(new GuestOffset(_geometry.RoundUpToCluster(length)));
            }
            catch
            {
                _hold.ReleaseWrites();
                throw;
            }

            _size.Length = length;
            try
            {
                WriteSize(length);
                _bitmaps.Resize(length);
            }
            catch
            {
                _size.Length = old;
                _hold.ReleaseWrites();
                throw;
            }

            try
            {
                _metadata.Flush.Run();
                _cut.UnmapFrom(new GuestOffset(_geometry.RoundUpToCluster(length)));
                _metadata.Flush.RunAndFree();
                _metadata.Flush.Run();
                _metadata.Space.TrimFile();
            }
            finally
            {
                _hold.ReleaseWrites();
            }
        }

        if (isRaw)
            _data.Resize(length);
    }

    private void RefuseForSnapshots()
    {
        Qcow2Header header = _image.Header.Current;
        if (header.Version < 3 && header.SnapshotCount > 0)
            throw BlockException.About(_image.Name, BlockErrorKind.NotSupported,
                "a version 2 image with snapshots keeps its size, as they do not hold the size of their disk",
                FailureCode.NeedsVersion3);
    }

    private void GrowL1(int entries)
    {
        int clusters = (int)(_geometry.RoundUpToCluster(entries * 8L) >> _geometry.ClusterBits);
        HostOffset place = _metadata.Allocator.Allocate(clusters).Start;
        try
        {
            MoveL1(place, clusters, entries);
        }
        catch (BlockException) when (!_metadata.Durable.HasFailed)
        {
            // The header is known to point at the old table.
            _metadata.Allocator.FreeUnlinked(place, clusters);
            throw;
        }
    }

    private void MoveL1(HostOffset place, int clusters, int entries)
    {
        // The copy must not hold entries of tables that are not durable yet.
        _metadata.Flush.BeginExclusiveWhenClean(() => _metadata.Tables.L1);
        ResidentTable? larger = null;
        try
        {
            ResidentTable old = _metadata.Tables.L1;
            int oldClusters = (int)(_geometry.RoundUpToCluster(old.Count * 8L) >> _geometry.ClusterBits);
            HostOffset oldPlace = old.Offset;
            larger = old.CopyTo(place, entries);
            larger.WriteAll((long)clusters << _geometry.ClusterBits);
            _metadata.Durable.Barrier();
            _metadata.Durable.UpdateHeader(header => header with { L1Size = entries, L1Offset = place.Value });
            _metadata.Tables.ReplaceL1(larger);
            larger = null;
            _metadata.Guard.Add(place, entries * 8L, MetadataKind.L1Table);
            if (oldClusters > 0)
                _metadata.Frees.Add(oldPlace, oldClusters, _metadata.Epochs.Current, isTable: true);
        }
        finally
        {
            larger?.Dispose();
            _metadata.Flush.EndExclusive();
        }
    }

    private void WriteSize(long length) => _metadata.Durable.UpdateHeader(header => header with { Size = length });
}
