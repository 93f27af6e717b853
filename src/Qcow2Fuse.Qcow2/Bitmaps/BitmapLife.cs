// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Bitmaps;

/// <summary>Persistent bitmaps from open to close: recording, marking in use, resizing, storing.</summary>
/// <remarks>
/// A bitmap that records says so on disk (in use) before the first guest write, and its bits are only in memory until
/// a clean close stores them. A crash leaves it in use, which everybody takes for unusable. All other bitmaps stay
/// valid on disk all the time.
/// </remarks>
internal sealed class BitmapLife(ImageCore image, ImageMetadata metadata) : IDisposable
{
    private readonly ImageGate _gate = image.Gate;
    private readonly DiskSize _size = image.Size;
    private BitmapSet? _set;
    private bool _isChanging;

    /// <summary>Writes bitmaps into the image.</summary>
    public BitmapStore Store { get; } = new(image, metadata);

    /// <summary>
    /// Whether the guest may write: a bitmap that records is in use on disk from then on. Used with the gate held.
    /// </summary>
    public bool HasGuestWrites { get; set; }

    /// <summary>The bitmaps, those of an image opened read-only read when they are first asked for. The gate is held.
    /// </summary>
    /// <exception cref="BlockException">Their directory is damaged.</exception>
    public BitmapSet Set
    {
        get
        {
            _gate.AssertHeld();
            return _set ??= BitmapSet.Read(image.File, image.Header.Current, metadata.Memory);
        }
    }

    /// <summary>Reads the directory of an image that is opened for writing.</summary>
    /// <param name="isDropped">The bitmaps cannot be kept and the user gives them up.</param>
    public void Read(bool isDropped) => _set = isDropped
        ? new BitmapSet(extension: null) : BitmapSet.Read(image.File, image.Header.Current, metadata.Memory);

    /// <summary>Loads the bitmaps that record. The gate is held and released meanwhile.</summary>
    public void LoadRecording()
    {
        foreach (PersistentBitmap bitmap in Set.All)
        {
            if (bitmap is { IsEnabled: true, IsUsable: true })
                LoadBits(bitmap);
        }

        Set.UpdateRecording();
    }

    /// <summary>
    /// Records a change with the gate held. What is beyond the end is not the guest's: the space that a disk grows by,
    /// which is zeroed before anybody sees it.
    /// </summary>
    public void MarkChange(long offset, long length)
    {
        if (offset < _size.Length)
            Mark(offset, length);
    }

    /// <summary>Records a change of a range that begins in the disk; the gate is held.</summary>
    public void Mark(long offset, long length)
    {
        _gate.AssertHeld();
        _set!.Mark(offset, length);
    }

    /// <summary>Records a range of which some or nothing will change. Takes the gate.</summary>
    public void Record(long offset, long length)
    {
        using (_gate.Enter())
            Mark(offset, length);
    }

    /// <summary>
    /// Records that the whole disk has changed, as when it goes back to a snapshot. The gate is held, and writes have
    /// begun.
    /// </summary>
    public void MarkWholeDisk() => Mark(0, _size.Length);

    /// <summary>Waits until nobody changes bitmaps, and keeps others from it. The gate is held and released meanwhile.
    /// </summary>
    /// <remarks>It comes before held writes: whoever holds writes back does not begin a change.</remarks>
    public void BeginChange()
    {
        _gate.AssertHeld();
        while (_isChanging)
            _gate.Wait();
        _isChanging = true;
    }

    /// <summary>Lets others change bitmaps. The gate is held.</summary>
    public void EndChange()
    {
        _gate.AssertHeld();
        _isChanging = false;
        _gate.PulseAll();
    }

    /// <summary>Clears the autoclear bits whose promise is not kept here. The gate is held.</summary>
    public void ClearAutoclear()
    {
        _gate.AssertHeld();
        ulong kept = (Set.All.Count > 0 ? FeatureBits.Bitmaps : 0)
            | (image.Geometry.DataIsExternal ? FeatureBits.RawExternalData : 0);
        if ((image.Header.Current.Autoclear & ~kept) == 0)
            return;
        image.Header.Update(header => header with { Autoclear = header.Autoclear & kept });
        metadata.Durable.Barrier();
    }

    /// <summary>Says on disk that bitmaps are in use. The gate is held and released meanwhile.</summary>
    public void MarkInUse(Predicate<PersistentBitmap> which)
    {
        List<PersistentBitmap> marked = Set.All.FindAll(bitmap => bitmap.IsUsable && which(bitmap));
        foreach (PersistentBitmap bitmap in marked)
            bitmap.IsMarked = true;
        Store.WriteFlags(Set, marked);
    }

    /// <summary>
    /// Before the size of the disk changes: all bitmaps are in memory and marked in use, as their tables are not of the
    /// right length for a while. Nobody else changes bitmaps before <see cref="EndResize"/>. The gate is held and
    /// released meanwhile.
    /// </summary>
    /// <exception cref="BlockException">A bitmap cannot be resized; nothing has changed.</exception>
    public void BeginResize(long length)
    {
        BeginChange();
        try
        {
            long bytes = 0;
            foreach (PersistentBitmap bitmap in Set.All)
            {
                FindUsable(bitmap.Name);
                bytes += GranuleBits.LengthFor(length, bitmap.Entry.GranularityBits);
                if (bytes > BitmapTable.BitsBytesMax)
                    throw BitmapTable.TooLarge(image.File, bitmap.Name);
            }

            foreach (PersistentBitmap bitmap in Set.All)
                LoadBits(bitmap);
            MarkInUse(static _ => true);
        }
        catch
        {
            EndChange();
            throw;
        }
    }

    /// <summary>
    /// Gives all bitmaps the length for the disk; new granules are clear, as in QEMU. The gate is held.
    /// </summary>
    public void Resize(long length)
    {
        _gate.AssertHeld();
        foreach (PersistentBitmap bitmap in Set.All)
        {
            GranuleBits resized = bitmap.Bits!.CopyFor(length);
            bitmap.Dispose();
            bitmap.Bits = resized;
        }

        Set.UpdateRecording();
    }

    /// <summary>Stores the bitmaps that record nothing, so that they are valid again. The gate is held and released
    /// meanwhile.</summary>
    public void EndResize()
    {
        try
        {
            if (!metadata.Durable.HasFailed)
                StoreMarked(Set.All.FindAll(static bitmap => !bitmap.IsEnabled));
        }
        finally
        {
            EndChange();
        }
    }

    /// <summary>
    /// The last step of a clean close, when all data is durable. The bitmaps of an image that was found corrupt stay in
    /// use: nothing more is allocated there. The gate is held and released meanwhile.
    /// </summary>
    public void StoreAtClose()
    {
        _gate.AssertHeld();
        if (image.Corrupt.IsFound || _set is null || !_set.All.Exists(static bitmap => bitmap.IsMarked))
            return;
        metadata.Flush.Run();
        StoreMarked(_set.All);
    }

    /// <summary>Stores marked bitmaps and takes the mark off. On a failure they stay as they were. The gate is held and
    /// released meanwhile.</summary>
    public void StoreMarked(List<PersistentBitmap> which)
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
            Store.Store(Set, Set.All, contents);
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

    /// <summary>The bits of a bitmap in memory, as far as there is room. The gate is held and released meanwhile.
    /// </summary>
    public void LoadBits(PersistentBitmap bitmap)
    {
        if (bitmap.Bits is not null)
            return;
        CheckMemory(bitmap.Name, bitmap.Entry.GranularityBits);
        using (_gate.Release())
        {
            bitmap.Bits = BitmapTable.Load(
                image.File, bitmap.Entry, _size.Length, image.Geometry.ClusterBits, metadata.Memory);
        }
    }

    /// <summary>Throws unless there is room in memory for the bits of one bitmap more. The gate is held.</summary>
    public void CheckMemory(string name, int granularityBits)
    {
        if (Set.BitsBytes() + GranuleBits.LengthFor(_size.Length, granularityBits) > BitmapTable.BitsBytesMax)
            throw BitmapTable.TooLarge(image.File, name);
    }

    /// <summary>The bitmap of a name. The gate is held.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NotFound"/>.</exception>
    public PersistentBitmap Find(string name) =>
        Set.Find(name) ?? throw Error(BlockErrorKind.NotFound, name, "does not exist");

    /// <summary>The bitmap of a name, whose content means something. The gate is held.</summary>
    /// <exception cref="BlockException">There is none, or it cannot be used.</exception>
    public PersistentBitmap FindUsable(string name)
    {
        PersistentBitmap bitmap = Find(name);
        if (bitmap.IsInconsistent)
            throw BlockException.About(image.Name, BlockErrorKind.NotSupported,
                $"bitmap '{Printable.Text(name)}' was not stored after it had been in use and is worthless",
                cause: FailureCode.BitmapInconsistent);
        if (bitmap.Entry.NotUnderstood is { } reason)
            throw Error(BlockErrorKind.UnsupportedFeature, name, reason);
        return bitmap;
    }

    /// <summary>A failure that is about one bitmap.</summary>
    public BlockException Error(BlockErrorKind kind, string name, string reason) =>
        BlockException.About(image.Name, kind, $"bitmap '{Printable.Text(name)}': {reason}");

    public void Dispose() => _set?.Dispose();
}
