// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Bitmaps;

/// <summary>A bitmap of an open image: what the directory says of it, and its bits where they are in memory.</summary>
/// <remarks>All members are used with the image's gate held.</remarks>
internal sealed class PersistentBitmap : IDisposable
{
    public PersistentBitmap(BitmapEntry entry)
    {
        Entry = entry;
        Name = entry.Name;
        IsEnabled = (entry.Flags & BitmapEntry.Auto) != 0;
        IsInconsistent = (entry.Flags & BitmapEntry.InUse) != 0;
    }

    /// <summary>The entry as the directory of the image file holds it.</summary>
    public BitmapEntry Entry { get; set; }

    public string Name { get; }

    /// <summary>Bytes from the start of the directory to the entry.</summary>
    public int EntryOffset { get; set; }

    /// <summary>Guest writes are recorded, once the image is written.</summary>
    public bool IsEnabled { get; set; }

    /// <summary>It was in use already when the image was opened: nobody knows what it should hold.</summary>
    public bool IsInconsistent { get; }

    /// <summary>
    /// The in-use flag on disk was set by this program, or may be: the bits in memory are the truth and are stored at
    /// close.
    /// </summary>
    public bool IsMarked { get; set; }

    /// <summary>The bits; null where they were not needed yet and are what the table on disk says.</summary>
    public GranuleBits? Bits { get; set; }

    /// <summary>Its content may be used: it is understood and consistent.</summary>
    public bool IsUsable => !IsInconsistent && Entry.NotUnderstood is null;

    /// <summary>What its flags on disk are to be; those of a bitmap that is not usable never change.</summary>
    public uint Flags => !IsUsable ? Entry.Flags
        : (Entry.Flags & BitmapEntry.ExtraDataCompatible)
            | (IsEnabled ? BitmapEntry.Auto : 0)
            | (IsMarked ? BitmapEntry.InUse : 0);

    public BitmapInfo Describe() =>
        new(Name, 1L << Math.Min((int)Entry.GranularityBits, 62), IsEnabled, IsInconsistent);

    public void Dispose()
    {
        Bits?.Dispose();
        Bits = null;
    }
}
