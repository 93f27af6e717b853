// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Bitmaps;

/// <summary>The operations on the persistent bitmaps of an image that may be written meanwhile.</summary>
internal sealed class ImageBitmaps
{
    private const int DefaultGranularityMin = 4096;
    private const int DefaultGranularityMax = 65536;

    private readonly ImageCore _image;
    private readonly ImageGate _gate;
    private readonly ImageMetadata _metadata;
    private readonly WriteHold _hold;
    private readonly BitmapLife _life;
    private readonly IGathered? _gathered;

    public ImageBitmaps(
        ImageCore image, ImageMetadata metadata, WriteHold hold, BitmapLife life, IGathered? gathered)
    {
        _image = image;
        _gate = image.Gate;
        _metadata = metadata;
        _hold = hold;
        _life = life;
        _gathered = gathered;
    }

    /// <summary>The bitmaps of the image in the order of its directory.</summary>
    /// <exception cref="BlockException">The directory of an image opened read-only is damaged.</exception>
    public IReadOnlyList<BitmapInfo> Infos
    {
        get
        {
            using (_gate.Enter())
                return _life.Set.All.ConvertAll(static bitmap => bitmap.Describe());
        }
    }

    /// <summary>
    /// The granularity of a bitmap for which none is chosen: the cluster size within 4 KiB and 64 KiB, as in QEMU.
    /// </summary>
    public int DefaultGranularity =>
        Math.Clamp(_image.Geometry.ClusterSize, DefaultGranularityMin, DefaultGranularityMax);

    private long DiskBytes => _image.Size.Length;

    /// <summary>Adds an empty bitmap. Durable on return.</summary>
    /// <param name="name">Its name, 1 to 1023 bytes of UTF-8, not used yet.</param>
    /// <param name="granularity">Bytes per bit, a power of two from 512 to 2 GiB; 0 for the default.</param>
    /// <param name="enabled">It records all writes that begin after this returns.</param>
    public void Add(string name, long granularity, bool enabled)
    {
        if (granularity == 0)
            granularity = DefaultGranularity;
        byte[] nameBytes = ByteText.Encode(name);
        if (_image.Geometry.Version < 3)
            throw _life.Error(BlockErrorKind.NotSupported, name, "images of version 2 hold no bitmaps");
        if (nameBytes.Length is 0 or > BitmapDirectory.NameBytesMax)
            throw _life.Error(BlockErrorKind.OutOfRange, name,
                $"the name must have 1 to {BitmapDirectory.NameBytesMax} bytes");
        if (granularity is < 512 or > 1L << BitmapDirectory.GranularityBitsMax || !long.IsPow2(granularity))
            throw _life.Error(BlockErrorKind.OutOfRange, name, "the granularity must be a power of two from 512 to 2G");
        Change(bitmaps =>
        {
            if (bitmaps.Find(name) is not null)
                throw _life.Error(BlockErrorKind.NotSupported, name, "exists already");
            if (bitmaps.All.Count == BitmapDirectory.BitmapsMax)
                throw _life.Error(BlockErrorKind.TooLarge, name, "the image has as many bitmaps as it can hold");
            if (DiskBytes == 0)
                throw _life.Error(BlockErrorKind.NotSupported, name, "the disk is empty");
            int granularityBits = (int)long.Log2(granularity);
            _life.CheckMemory(name, granularityBits);
            Add(bitmaps, new PersistentBitmap(new BitmapEntry
            {
                Table = 0,
                TableEntries = 0,
                Flags = enabled ? BitmapEntry.Auto : 0,
                Type = 1,
                GranularityBits = (byte)granularityBits,
                ExtraData = [],
                NameBytes = nameBytes,
            }));
        });
    }

    /// <summary>Removes a bitmap, an inconsistent one too. Durable on return.</summary>
    public void Remove(string name) => Change(bitmaps =>
    {
        PersistentBitmap removed = _life.Find(name);
        List<PersistentBitmap> left = bitmaps.All.FindAll(bitmap => bitmap != removed);
        if (left.Count == 0)
            _life.Store.RemoveAll(bitmaps);
        else
            _life.Store.Store(bitmaps, left, []);
        bitmaps.Replace(left);
        removed.Dispose();
    });

    /// <summary>
    /// Makes a bitmap empty. Durable on return, unless it records, as then it is in use on disk anyway.
    /// </summary>
    public void Clear(string name) => Change(bitmaps =>
    {
        PersistentBitmap bitmap = _life.FindUsable(name);
        if (bitmap.IsMarked)
        {
            // A write that was recorded but has not ended would be missing afterwards.
            WithWritesHeld(bitmap.Bits!.Clear);
            return;
        }

        _life.CheckMemory(name, bitmap.Entry.GranularityBits);
        using var empty = new GranuleBits(DiskBytes, bitmap.Entry.GranularityBits, _metadata.Memory, _image.Name);
        _life.Store.Store(bitmaps, bitmaps.All, new() { [bitmap] = empty });
        bitmap.Bits?.Clear();
    });

    /// <summary>Lets a bitmap record all writes that begin after this returns. Durable on return.</summary>
    public void Enable(string name) => Change(bitmaps =>
    {
        PersistentBitmap bitmap = _life.FindUsable(name);
        if (bitmap.IsEnabled)
            return;
        _life.LoadBits(bitmap);
        bitmap.IsMarked |= _life.HasGuestWrites;
        SwitchOnDisk(bitmaps, bitmap, enabled: true);
        WithWritesHeld(bitmaps.UpdateRecording);
    });

    /// <summary>Stops a bitmap from recording. Durable on return, with its content.</summary>
    public void Disable(string name) => Change(bitmaps =>
    {
        PersistentBitmap bitmap = _life.FindUsable(name);
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
        _life.StoreMarked([bitmap]);
    });

    /// <summary>
    /// Sets in <paramref name="target"/> what is set in <paramref name="source"/>. Durable on return, unless the target
    /// records, as then it is in use on disk anyway.
    /// </summary>
    public void Merge(string source, string target) => Change(bitmaps =>
    {
        PersistentBitmap from = _life.FindUsable(source);
        PersistentBitmap into = _life.FindUsable(target);
        if (from == into)
            return;
        bool wasLoaded = from.Bits is not null;
        _life.LoadBits(from);
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

    /// <summary>As <see cref="Merge(string, string)"/>, from another image; null for one of another format.</summary>
    public void Merge(ImageBitmaps? other, string source, string target)
    {
        if (other is null)
            throw _life.Error(BlockErrorKind.NotSupported, target, "the other image is of another format");
        if (other.DiskBytes != DiskBytes)
            throw _life.Error(BlockErrorKind.NotSupported, target,
                $"the disk has {DiskBytes} bytes and that of {other._image.Name} {other.DiskBytes}");
        using GranuleBits bits = other.CopyBits(source);
        Change(bitmaps => Merge(bitmaps, bits, _life.FindUsable(target)));
    }

    private GranuleBits CopyBits(string name)
    {
        using (_gate.Enter())
        {
            PersistentBitmap bitmap = _life.FindUsable(name);
            return bitmap.Bits is { } bits
                ? bits.CopyFor(DiskBytes)
                : BitmapTable.Load(
                    _image.File, bitmap.Entry, DiskBytes, _image.Geometry.ClusterBits, _metadata.Memory);
        }
    }

    /// <summary>Changes bitmaps; one at a time, with the gate held once.</summary>
    private void Change(Action<BitmapSet> change)
    {
        _image.CheckWritable();
        if (_image.Corrupt.IsFound)
            throw BlockException.About(
                _image.Name, BlockErrorKind.Io, "the image was found corrupt and is not written any more");
        _image.Corrupt.Guard(() =>
        {
            _gathered?.StoreAll();
            using (_gate.Enter())
                ChangeAlone(change);
        });
    }

    private void ChangeAlone(Action<BitmapSet> change)
    {
        _life.BeginChange();
        try
        {
            _metadata.Durable.ThrowIfFailed();
            _life.ClearAutoclear();
            _metadata.Survey.Ensure();
            change(_life.Set);
        }
        finally
        {
            _life.EndChange();
        }
    }

    private void Add(BitmapSet bitmaps, PersistentBitmap added)
    {
        added.Bits = new GranuleBits(DiskBytes, added.Entry.GranularityBits, _metadata.Memory, _image.Name);
        List<PersistentBitmap> all = [.. bitmaps.All, added];
        try
        {
            // While the guest writes, a bitmap that records is in use from its first moment on.
            added.IsMarked = added.IsEnabled && _life.HasGuestWrites;
            _life.Store.Store(bitmaps, all, new() { [added] = added.Bits });
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
            _life.Store.WriteFlags(bitmaps, [bitmap]);
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
        _life.LoadBits(into);
        GranuleBits merged = into.Bits!.CopyFor(DiskBytes);
        try
        {
            merged.Merge(from);
            _life.Store.Store(bitmaps, bitmaps.All, new() { [into] = merged });
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

    /// <summary>Runs with no guest write under way: each was recorded and has ended, or has not begun.</summary>
    private void WithWritesHeld(Action action)
    {
        _hold.HoldWrites();
        try
        {
            action();
        }
        finally
        {
            _hold.ReleaseWrites();
        }
    }
}
