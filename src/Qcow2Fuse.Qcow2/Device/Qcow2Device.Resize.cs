// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>Growing and shrinking of the virtual disk.</summary>
public sealed partial class Qcow2Device
{
    private const int SectorBytes = 512;

    private readonly Lock _resizeLock = new();
    private long _growsTo;

    /// <inheritdoc/>
    /// <remarks>New space reads as zeroes and takes no storage.</remarks>
    public override void Resize(long length) => Resize(length, Preallocation.Off);

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
        BeginWrite(offset: 0, length: 0);
        StoreGathered();
        if (length < 0 || length % SectorBytes != 0)
            throw BlockException.About(
                Name, BlockErrorKind.OutOfRange, $"size {length} is not a multiple of {SectorBytes}");
        long entries = _geometry.L1EntriesFor(length);
        if (entries > Qcow2HeaderReader.L1BytesMax / 8)
            throw BlockException.About(Name, BlockErrorKind.TooLarge, $"{length} bytes need too large an L1 table");
        lock (_resizeLock)
        {
            if (length == Length)
                return;
            RefuseForSnapshots();
            using (_gate.Enter())
                BeginBitmapResize(length);
            try
            {
                if (length < Length)
                    ShrinkStored(length);
                else
                    Grow(length, (int)entries, preallocation);
            }
            catch (BlockException e) when (e.IsSpreading)
            {
                MarkCorrupt();
                throw;
            }
            finally
            {
                using (_gate.Enter())
                    EndBitmapResize();
            }
        }
    }

    private void Grow(long length, int entries, Preallocation preallocation)
    {
        long old = Length;
        using (_gate.Enter())
        {
            if (entries > _caches.L1.Count)
                GrowL1(entries);
        }

        bool isRaw = IsRawExternal;
        if (isRaw && _data.Length < length)
            _data.Resize(length);
        Volatile.Write(ref _growsTo, length);
        try
        {
            ZeroGuest(old, length - old, mayUnmap: true);

            // A raw data file holds the whole disk, and its tables say so.
            if (preallocation == Preallocation.Off && isRaw)
                preallocation = Preallocation.Metadata;
            if (preallocation != Preallocation.Off)
                Preallocate(old, length, preallocation);
            FlushOwn();
            using (_gate.Enter())
            {
                WriteSize(length);
                ResizeBitmaps(length);
                Volatile.Write(ref _length, length);
            }
        }
        finally
        {
            Volatile.Write(ref _growsTo, 0);
        }
    }

    /// <summary>
    /// Where the disk ends for what is done here while it grows: the guest does not see the new space yet, and bitmaps
    /// do not record its zeroes.
    /// </summary>
    private long Reach => Math.Max(Length, Volatile.Read(ref _growsTo));

    /// <summary>Nothing may be gathered for what is cut off.</summary>
    private void ShrinkStored(long length)
    {
        PauseGathering();
        try
        {
            Shrink(length);
        }
        finally
        {
            _target?.Resume();
        }
    }

    private void Shrink(long length)
    {
        bool isRaw = IsRawExternal;
        using (_gate.Enter())
        {
            _map.HoldWrites();
            long old = Length;
            try
            {
                _caches.Flush();
                _map.CheckUnmap(new GuestOffset(_geometry.RoundUpToCluster(length)));
            }
            catch
            {
                _map.ReleaseWrites();
                throw;
            }

            Volatile.Write(ref _length, length);
            try
            {
                WriteSize(length);
                ResizeBitmaps(length);
            }
            catch
            {
                Volatile.Write(ref _length, old);
                _map.ReleaseWrites();
                throw;
            }

            try
            {
                _caches.Flush();
                _map.UnmapFrom(new GuestOffset(_geometry.RoundUpToCluster(length)));
                _caches.FlushAndFree();
                _caches.Flush();
                _caches.TrimFile();
            }
            finally
            {
                _map.ReleaseWrites();
            }
        }

        if (isRaw)
            _data.Resize(length);
    }

    private void RefuseForSnapshots()
    {
        Qcow2Header header = _header.Current;
        if (header.Version < 3 && header.SnapshotCount > 0)
            throw BlockException.About(Name, BlockErrorKind.NotSupported,
                "a version 2 image with snapshots keeps its size, as they do not hold the size of their disk",
                FailureCode.NeedsVersion3);
    }

    private void GrowL1(int entries)
    {
        int clusters = (int)(_geometry.RoundUpToCluster(entries * 8L) >> _geometry.ClusterBits);
        HostOffset place = _caches.Allocator.Allocate(clusters).Start;
        try
        {
            MoveL1(place, clusters, entries);
        }
        catch (BlockException) when (!_caches.HasFailed)
        {
            // The header is known to point at the old table.
            _caches.Allocator.FreeUnlinked(place, clusters);
            throw;
        }
    }

    private void MoveL1(HostOffset place, int clusters, int entries)
    {
        // The copy must not hold entries of tables that are not durable yet.
        _caches.BeginExclusiveWhenClean(() => _caches.L1);
        ResidentTable? larger = null;
        try
        {
            ResidentTable old = _caches.L1;
            int oldClusters = (int)(_geometry.RoundUpToCluster(old.Count * 8L) >> _geometry.ClusterBits);
            HostOffset oldPlace = old.Offset;
            larger = old.CopyTo(place, entries);
            larger.WriteAll((long)clusters << _geometry.ClusterBits);
            _caches.Barrier();
            _caches.UpdateHeader(header => header with { L1Size = entries, L1Offset = place.Value });
            _caches.ReplaceL1(larger);
            larger = null;
            _caches.Guard.Add(place, entries * 8L, MetadataKind.L1Table);
            if (oldClusters > 0)
                _caches.Frees.Add(oldPlace, oldClusters, _caches.Epochs.Current, isTable: true);
        }
        finally
        {
            larger?.Dispose();
            _caches.EndExclusive();
        }
    }

    private void WriteSize(long length) => _caches.UpdateHeader(header => header with { Size = length });
}
