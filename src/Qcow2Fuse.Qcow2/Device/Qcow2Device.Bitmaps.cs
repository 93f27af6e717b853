// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>Persistent bitmaps: the operations on them, on an image that may be written meanwhile.</summary>
/// <remarks>
/// A bitmap that records says so on disk (in use) before the first guest write, and its bits are only in memory until
/// a clean close stores them. A crash leaves it in use, which everybody takes for unusable. All other bitmaps stay
/// valid on disk all the time.
/// </remarks>
public sealed partial class Qcow2Device
{
    private const int DefaultGranularityMin = 4096;
    private const int DefaultGranularityMax = 65536;
    private readonly BitmapStore _bitmapStore;
    private BitmapSet? _bitmaps;

    /// <summary>The bitmaps of the image in the order of its directory.</summary>
    /// <exception cref="BlockException">The directory of an image opened read-only is damaged.</exception>
    public IReadOnlyList<BitmapInfo> Bitmaps
    {
        get
        {
            using (_gate.Enter())
                return LoadedBitmaps().All.ConvertAll(static bitmap => bitmap.Describe());
        }
    }

    /// <summary>
    /// The granularity of a bitmap for which none is chosen: the cluster size within 4 KiB and 64 KiB, as in QEMU.
    /// </summary>
    public int DefaultBitmapGranularity =>
        Math.Clamp(_geometry.ClusterSize, DefaultGranularityMin, DefaultGranularityMax);

    /// <summary>Adds an empty bitmap. Durable on return.</summary>
    /// <param name="name">Its name, 1 to 1023 bytes of UTF-8, not used yet.</param>
    /// <param name="granularity">Bytes per bit, a power of two from 512 to 2 GiB; 0 for the default.</param>
    /// <param name="enabled">It records all writes that begin after this returns.</param>
    public void AddBitmap(string name, long granularity, bool enabled)
    {
        if (granularity == 0)
            granularity = DefaultBitmapGranularity;
        byte[] nameBytes = ByteText.Encode(name);
        if (_geometry.Version < 3)
            throw BitmapError(BlockErrorKind.NotSupported, name, "images of version 2 hold no bitmaps");
        if (nameBytes.Length is 0 or > BitmapDirectory.NameBytesMax)
            throw BitmapError(BlockErrorKind.OutOfRange, name,
                $"the name must have 1 to {BitmapDirectory.NameBytesMax} bytes");
        if (granularity is < 512 or > 1L << BitmapDirectory.GranularityBitsMax || !long.IsPow2(granularity))
            throw BitmapError(BlockErrorKind.OutOfRange, name, "the granularity must be a power of two from 512 to 2G");
        ChangeBitmaps(bitmaps =>
        {
            if (bitmaps.Find(name) is not null)
                throw BitmapError(BlockErrorKind.NotSupported, name, "exists already");
            if (bitmaps.All.Count == BitmapDirectory.BitmapsMax)
                throw BitmapError(BlockErrorKind.TooLarge, name, "the image has as many bitmaps as it can hold");
            if (Length == 0)
                throw BitmapError(BlockErrorKind.NotSupported, name, "the disk is empty");
            int granularityBits = (int)long.Log2(granularity);
            CheckMemory(bitmaps, name, granularityBits);
            var added = new PersistentBitmap(new BitmapEntry
            {
                Table = 0,
                TableEntries = 0,
                Flags = enabled ? BitmapEntry.Auto : 0,
                Type = 1,
                GranularityBits = (byte)granularityBits,
                ExtraData = [],
                NameBytes = nameBytes,
            });
            AddBitmap(bitmaps, added);
        });
    }

    /// <summary>Removes a bitmap, an inconsistent one too. Durable on return.</summary>
    public void RemoveBitmap(string name) => ChangeBitmaps(bitmaps =>
    {
        PersistentBitmap removed = Find(bitmaps, name);
        List<PersistentBitmap> left = bitmaps.All.FindAll(bitmap => bitmap != removed);
        if (left.Count == 0)
            _bitmapStore.RemoveAll(bitmaps);
        else
            _bitmapStore.Store(bitmaps, left, []);
        bitmaps.Replace(left);
        removed.Dispose();
    });

    /// <summary>
    /// Makes a bitmap empty. Durable on return, unless it records, as then it is in use on disk anyway.
    /// </summary>
    public void ClearBitmap(string name) => ChangeBitmaps(bitmaps =>
    {
        PersistentBitmap bitmap = FindUsable(bitmaps, name);
        if (bitmap.IsMarked)
        {
            // A write that was recorded but has not ended would be missing afterwards.
            WithWritesHeld(bitmap.Bits!.Clear);
            return;
        }

        CheckMemory(bitmaps, name, bitmap.Entry.GranularityBits);
        using var empty = new GranuleBits(
            Length, bitmap.Entry.GranularityBits, _caches.Memory, Name);
        _bitmapStore.Store(bitmaps, bitmaps.All, new() { [bitmap] = empty });
        bitmap.Bits?.Clear();
    });

    /// <summary>Lets a bitmap record all writes that begin after this returns. Durable on return.</summary>
    public void EnableBitmap(string name) => ChangeBitmaps(bitmaps =>
    {
        PersistentBitmap bitmap = FindUsable(bitmaps, name);
        if (bitmap.IsEnabled)
            return;
        LoadBits(bitmaps, bitmap);
        bitmap.IsMarked |= _guestWrites;
        SwitchOnDisk(bitmaps, bitmap, enabled: true);
        WithWritesHeld(bitmaps.UpdateRecording);
    });

    /// <summary>Stops a bitmap from recording. Durable on return, with its content.</summary>
    public void DisableBitmap(string name) => ChangeBitmaps(bitmaps =>
    {
        PersistentBitmap bitmap = FindUsable(bitmaps, name);
        if (!bitmap.IsEnabled)
            return;
        if (!bitmap.IsMarked)
        {
            SwitchOnDisk(bitmaps, bitmap, enabled: false);
            bitmaps.UpdateRecording();
            bitmap.Dispose();
            return;
        }

        // What was written before is in the bitmap that is stored now, nothing that comes later.
        WithWritesHeld(() =>
        {
            bitmap.IsEnabled = false;
            bitmaps.UpdateRecording();
        });
        StoreMarked(bitmaps, [bitmap]);
    });

    /// <summary>
    /// Sets in <paramref name="target"/> what is set in <paramref name="source"/>. Durable on return, unless the target
    /// records, as then it is in use on disk anyway.
    /// </summary>
    public void MergeBitmap(string source, string target) => ChangeBitmaps(bitmaps =>
    {
        PersistentBitmap from = FindUsable(bitmaps, source);
        PersistentBitmap into = FindUsable(bitmaps, target);
        if (from == into)
            return;
        bool wasLoaded = from.Bits is not null;
        LoadBits(bitmaps, from);
        try
        {
            Merge(bitmaps, from.Bits!, into);
        }
        finally
        {
            if (!wasLoaded)
                from.Dispose();
        }
    });

    /// <inheritdoc/>
    public void MergeBitmap(IBitmaps sourceImage, string source, string target)
    {
        if (sourceImage is not Qcow2Device other)
            throw BitmapError(BlockErrorKind.NotSupported, target, "the other image is of another format");
        if (other.Length != Length)
            throw BitmapError(BlockErrorKind.NotSupported, target,
                $"the disk has {Length} bytes and that of {other.Name} {other.Length}");
        using GranuleBits bits = other.CopyBits(source);
        ChangeBitmaps(bitmaps => Merge(bitmaps, bits, FindUsable(bitmaps, target)));
    }

    private GranuleBits CopyBits(string name)
    {
        using (_gate.Enter())
        {
            PersistentBitmap bitmap = FindUsable(LoadedBitmaps(), name);
            return bitmap.Bits is { } bits
                ? bits.CopyFor(Length)
                : BitmapTable.Load(_file, bitmap.Entry, Length, _geometry.ClusterBits, _caches.Memory);
        }
    }

    private void AddBitmap(BitmapSet bitmaps, PersistentBitmap added)
    {
        added.Bits = new GranuleBits(Length, added.Entry.GranularityBits, _caches.Memory, Name);
        List<PersistentBitmap> all = [.. bitmaps.All, added];
        try
        {
            // While the guest writes, a bitmap that records is in use from its first moment on.
            added.IsMarked = added.IsEnabled && _guestWrites;
            _bitmapStore.Store(bitmaps, all, new() { [added] = added.Bits });
        }
        catch
        {
            added.Dispose();
            throw;
        }

        if (!added.IsEnabled)
            added.Dispose();
        WithWritesHeld(() => bitmaps.Replace(all));
    }

    /// <summary>
    /// Changes the auto flag of a bitmap on disk. If that fails nobody knows what the disk says: then the bitmap counts
    /// as marked, so that the first guest write marks it whatever it says, and the close stores it.
    /// </summary>
    private void SwitchOnDisk(BitmapSet bitmaps, PersistentBitmap bitmap, bool enabled)
    {
        bitmap.IsEnabled = enabled;
        try
        {
            _bitmapStore.WriteFlags(bitmaps, [bitmap]);
        }
        catch
        {
            bitmap.IsEnabled = !enabled;
            bitmap.IsMarked = true;
            throw;
        }
    }

    private void Merge(BitmapSet bitmaps, GranuleBits from, PersistentBitmap into)
    {
        if (into.IsMarked)
        {
            into.Bits!.Merge(from);
            return;
        }

        bool wasLoaded = into.Bits is not null;
        LoadBits(bitmaps, into);
        GranuleBits merged = into.Bits!.CopyFor(Length);
        try
        {
            merged.Merge(from);
            _bitmapStore.Store(bitmaps, bitmaps.All, new() { [into] = merged });
            into.Dispose();
            into.Bits = merged;
        }
        finally
        {
            if (into.Bits != merged)
                merged.Dispose();
            if (!wasLoaded)
                into.Dispose();
            bitmaps.UpdateRecording();
        }
    }

    /// <summary>The bits of a bitmap in memory, as far as there is room.</summary>
    private void LoadBits(BitmapSet bitmaps, PersistentBitmap bitmap)
    {
        if (bitmap.Bits is not null)
            return;
        CheckMemory(bitmaps, bitmap.Name, bitmap.Entry.GranularityBits);
        using (_gate.Release())
        {
            bitmap.Bits = BitmapTable.Load(_file, bitmap.Entry, Length, _geometry.ClusterBits, _caches.Memory);
        }
    }

    private void CheckMemory(BitmapSet bitmaps, string name, int granularityBits)
    {
        if (bitmaps.BitsBytes() + GranuleBits.LengthFor(Length, granularityBits) > BitmapTable.BitsBytesMax)
            throw BitmapTable.TooLarge(_file, name);
    }

    private PersistentBitmap Find(BitmapSet bitmaps, string name) =>
        bitmaps.Find(name) ?? throw BitmapError(BlockErrorKind.NotFound, name, "does not exist");

    private PersistentBitmap FindUsable(BitmapSet bitmaps, string name)
    {
        PersistentBitmap bitmap = Find(bitmaps, name);
        if (bitmap.IsInconsistent)
            throw BlockException.About(Name, BlockErrorKind.NotSupported,
                $"bitmap '{Printable.Text(name)}' was not stored after it had been in use and is worthless",
                cause: FailureCode.BitmapInconsistent);
        if (bitmap.Entry.NotUnderstood is { } reason)
            throw BitmapError(BlockErrorKind.UnsupportedFeature, name, reason);
        return bitmap;
    }

    private BlockException BitmapError(BlockErrorKind kind, string name, string reason) =>
        BlockException.About(Name, kind, $"bitmap '{Printable.Text(name)}': {reason}");
}
