// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>Persistent bitmaps from open to close: recording, marking in use, resizing, storing.</summary>
public sealed partial class Qcow2Device
{
    private bool _changingBitmaps;

    /// <summary>
    /// Records that the whole disk has changed, as when it goes back to a snapshot. The gate is held, and writes have
    /// begun (<see cref="BeginWrite"/>).
    /// </summary>
    internal void RecordWholeDisk() => _bitmaps!.Mark(0, Length);

    /// <summary>
    /// Loads the bitmaps of an image that is opened for writing, and takes the memory that its first write needs.
    /// </summary>
    /// <param name="dropped">They cannot be kept and the user gives them up.</param>
    private void OpenForWriting(bool dropped)
    {
        try
        {
            _bitmaps = dropped
                ? new BitmapSet(extension: null) : BitmapSet.Read(_file, _header.Current, _caches.Memory);
            using (_gate.Enter())
            {
                _caches.ReserveGuard(more: 0);
                foreach (PersistentBitmap bitmap in _bitmaps.All)
                {
                    if (bitmap is { IsEnabled: true, IsUsable: true })
                        LoadBits(_bitmaps, bitmap);
                }

                _bitmaps.UpdateRecording();
            }
        }
        catch
        {
            _cleaner?.Dispose();
            _commit?.Dispose();
            _bitmaps?.Dispose();
            _target?.Dispose();
            _compressed.Dispose();
            _caches.Dispose();
            throw;
        }
    }

    /// <summary>The set of an image opened read-only is read when it is first asked for.</summary>
    private BitmapSet LoadedBitmaps() => _bitmaps ??= BitmapSet.Read(_file, _header.Current, _caches.Memory);

    /// <summary>Clears the autoclear bits whose promise is not kept here.</summary>
    private void ClearAutoclear()
    {
        ulong kept = (_bitmaps!.All.Count > 0 ? FeatureBits.Bitmaps : 0)
            | (_geometry.DataIsExternal ? FeatureBits.RawExternalData : 0);
        if ((_header.Current.Autoclear & ~kept) == 0)
            return;
        _header.Update(header => header with { Autoclear = header.Autoclear & kept });
        _caches.Barrier();
    }

    private void MarkInUse(Predicate<PersistentBitmap> which)
    {
        List<PersistentBitmap> marked = _bitmaps!.All.FindAll(bitmap => bitmap.IsUsable && which(bitmap));
        foreach (PersistentBitmap bitmap in marked)
            bitmap.IsMarked = true;
        _bitmapStore.WriteFlags(_bitmaps, marked);
    }

    /// <summary>Changes bitmaps; one at a time, with the gate held once.</summary>
    private void ChangeBitmaps(Action<BitmapSet> change)
    {
        CheckWritable();
        if (_foundCorrupt)
            throw BlockException.About(
                Name, BlockErrorKind.Io, "the image was found corrupt and is not written any more");
        StoreGathered();
        try
        {
            using (_gate.Enter())
            {
                BeginBitmapChange();
                try
                {
                    _caches.ThrowIfFailed();
                    ClearAutoclear();
                    _caches.EnsureGuard();
                    change(_bitmaps!);
                }
                finally
                {
                    EndBitmapChange();
                }
            }
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            MarkCorrupt();
            throw;
        }
    }

    private void BeginBitmapChange()
    {
        while (_changingBitmaps)
            _gate.Wait();
        _changingBitmaps = true;
    }

    private void EndBitmapChange()
    {
        _changingBitmaps = false;
        _gate.PulseAll();
    }

    /// <summary>Runs with no guest write under way: each was recorded and has ended, or has not begun.</summary>
    private void WithWritesHeld(Action action)
    {
        _map.HoldWrites();
        try
        {
            action();
        }
        finally
        {
            _map.ReleaseWrites();
        }
    }

    /// <summary>
    /// Records a change with the gate held. What is beyond the end is not the guest's: the space that a disk grows by,
    /// which is zeroed before anybody sees it.
    /// </summary>
    private void MarkChange(long offset, long length)
    {
        if (offset < Length)
            _bitmaps!.Mark(offset, length);
    }

    /// <summary>Records a range of which some or nothing will change.</summary>
    private void RecordChange(long offset, long length)
    {
        using (_gate.Enter())
            _bitmaps!.Mark(offset, length);
    }

    /// <summary>
    /// Zeroes by metadata and records it while the gate is held, also where it fails half-way.
    /// </summary>
    private long ZeroRecorded(long offset, long length, bool mayUnmap, out bool handled)
    {
        long step = length;
        try
        {
            step = _map.Zero(new GuestOffset(offset), length, mayUnmap, IsSaid(offset), out handled);
        }
        finally
        {
            MarkChange(offset, step);
            NoteChange();
        }

        return step;
    }

    /// <summary>
    /// Before the size of the disk changes: all bitmaps are in memory and marked in use, as their tables are not of the
    /// right length for a while. Nobody else changes bitmaps before <see cref="EndBitmapResize"/>.
    /// </summary>
    /// <exception cref="BlockException">A bitmap cannot be resized; nothing has changed.</exception>
    private void BeginBitmapResize(long length)
    {
        BeginBitmapChange();
        try
        {
            long bytes = 0;
            foreach (PersistentBitmap bitmap in _bitmaps!.All)
            {
                FindUsable(_bitmaps, bitmap.Name);
                bytes += GranuleBits.LengthFor(length, bitmap.Entry.GranularityBits);
                if (bytes > BitmapTable.BitsBytesMax)
                    throw BitmapTable.TooLarge(_file, bitmap.Name);
            }

            foreach (PersistentBitmap bitmap in _bitmaps.All)
                LoadBits(_bitmaps, bitmap);
            MarkInUse(static _ => true);
        }
        catch
        {
            EndBitmapChange();
            throw;
        }
    }

    /// <summary>Gives all bitmaps the length for the disk; new granules are clear, as in QEMU.</summary>
    private void ResizeBitmaps(long length)
    {
        foreach (PersistentBitmap bitmap in _bitmaps!.All)
        {
            GranuleBits resized = bitmap.Bits!.CopyFor(length);
            bitmap.Dispose();
            bitmap.Bits = resized;
        }

        _bitmaps.UpdateRecording();
    }

    /// <summary>Stores the bitmaps that record nothing, so that they are valid again.</summary>
    private void EndBitmapResize()
    {
        try
        {
            if (!_caches.HasFailed)
                StoreMarked(_bitmaps!, _bitmaps!.All.FindAll(static bitmap => !bitmap.IsEnabled));
        }
        finally
        {
            EndBitmapChange();
        }
    }

    /// <summary>Stores marked bitmaps and takes the mark off. On a failure they stay as they were.</summary>
    private void StoreMarked(BitmapSet bitmaps, List<PersistentBitmap> which)
    {
        var contents = new Dictionary<PersistentBitmap, GranuleBits>();
        foreach (PersistentBitmap bitmap in which)
        {
            if (bitmap.IsMarked)
                contents.Add(bitmap, bitmap.Bits!);
        }

        if (contents.Count == 0)
            return;
        foreach (PersistentBitmap bitmap in contents.Keys)
            bitmap.IsMarked = false;
        try
        {
            _bitmapStore.Store(bitmaps, bitmaps.All, contents);
        }
        catch
        {
            foreach (PersistentBitmap bitmap in contents.Keys)
                bitmap.IsMarked = true;
            throw;
        }

        foreach (PersistentBitmap bitmap in contents.Keys)
        {
            if (!bitmap.IsEnabled)
                bitmap.Dispose();
        }
    }

    /// <summary>
    /// The last step of a clean close, when all data is durable. The bitmaps of an image that was found corrupt stay in
    /// use: nothing more is allocated there.
    /// </summary>
    private void StoreBitmapsAtClose()
    {
        if (_foundCorrupt || _bitmaps is null || !_bitmaps.All.Exists(static bitmap => bitmap.IsMarked))
            return;
        _caches.Flush();
        StoreMarked(_bitmaps, _bitmaps.All);
    }
}
