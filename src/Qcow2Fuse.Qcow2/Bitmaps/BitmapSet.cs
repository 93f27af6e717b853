// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Bitmaps;

/// <summary>The persistent bitmaps of an image, and where their directory lies.</summary>
/// <remarks>All members are used with the image's gate held.</remarks>
internal sealed class BitmapSet : IDisposable
{
    /// <summary>Memory of the runtime for a bitmap beside its entry, whose name it holds in two forms.</summary>
    private const long BytesPerBitmap = 256;

    private GranuleBits[] _recording = [];
    private MemoryCharge? _charge;

    public BitmapSet(BitmapExtension? extension) => Extension = extension;

    /// <summary>All bitmaps in the order of the directory.</summary>
    public List<PersistentBitmap> All { get; private set; } = [];

    /// <summary>The extension as the image file holds it; null for none.</summary>
    public BitmapExtension? Extension { get; set; }

    /// <summary>Reads the directory; no bits are loaded.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.InvalidFormat"/>: it is damaged;
    /// <see cref="BlockErrorKind.NoMemory"/>.</exception>
    public static BitmapSet Read(BlockDevice file, Qcow2Header header, MemoryBudget memory)
    {
        BitmapExtension? extension = BitmapDirectory.Extension(file, header);
        var set = new BitmapSet(extension);
        if (extension is not { } found)
            return set;
        set._charge = memory.Take(
            MemoryBudget.ManagedFactor * ((found.Count * BytesPerBitmap) + (3L * found.DirectoryBytes)),
            file.Name, "its bitmap directory");
        try
        {
            int offset = 0;
            foreach (BitmapEntry entry in BitmapDirectory.Read(file, found))
            {
                set.All.Add(new PersistentBitmap(entry) { EntryOffset = offset });
                offset += entry.Length;
            }

            return set;
        }
        catch
        {
            set.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Why the bitmaps could not be kept valid if the image was written, as a sentence part after "FILE: "; or null.
    /// </summary>
    public static string? WhyNotKept(BlockDevice file, Qcow2Header header)
    {
        try
        {
            return BitmapDirectory.Extension(file, header) is { } extension
                ? WhyNotKept(file, BitmapDirectory.Read(file, extension), header.Size & ~511L, header.ClusterBits)
                : null;
        }
        catch (BlockException e) when (e.Kind is BlockErrorKind.InvalidFormat or BlockErrorKind.TooLarge)
        {
            return e.ReasonOrMessage;
        }
    }

    /// <summary>What the directory of an image says, after a look at each of its entries.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.InvalidFormat"/>: it is damaged.</exception>
    public static IReadOnlyCollection<BitmapInfo> Describe(BlockDevice file, Qcow2Header header)
    {
        if (BitmapDirectory.Extension(file, header) is not { } extension)
            return [];
        return new TableList<BitmapInfo>(
            BitmapDirectory.Read(file, extension).Count(),
            () => BitmapDirectory.Read(file, extension).Select(static entry => new PersistentBitmap(entry).Describe()));
    }

    /// <summary>The bitmap of a name, or null.</summary>
    public PersistentBitmap? Find(string name) =>
        All.Find(bitmap => string.Equals(bitmap.Name, name, StringComparison.Ordinal));

    /// <summary>Takes another list of the same and new bitmaps.</summary>
    public void Replace(List<PersistentBitmap> bitmaps)
    {
        All = bitmaps;
        UpdateRecording();
    }

    /// <summary>To be called when it has changed which bitmaps record, or where their bits are.</summary>
    public void UpdateRecording() =>
        _recording = [.. All.FindAll(static bitmap => bitmap is { IsEnabled: true, IsUsable: true, Bits: not null })
            .ConvertAll(static bitmap => bitmap.Bits!)];

    /// <summary>Records a change of the disk in all enabled bitmaps. Allocates nothing.</summary>
    public void Mark(long offset, long length)
    {
        foreach (GranuleBits bits in _recording)
            bits.SetRange(offset, length);
    }

    /// <summary>Bytes of bits in memory.</summary>
    public long BitsBytes()
    {
        long bytes = 0;
        foreach (PersistentBitmap bitmap in All)
            bytes += bitmap.Bits?.Length ?? 0;
        return bytes;
    }

    public void Dispose()
    {
        foreach (PersistentBitmap bitmap in All)
            bitmap.Dispose();
        _charge?.Dispose();
    }

    private static string? WhyNotKept(
        BlockDevice file, IEnumerable<BitmapEntry> entries, long diskBytes, int clusterBits)
    {
        long bytes = 0;
        foreach (BitmapEntry entry in entries)
        {
            using var bitmap = new PersistentBitmap(entry);
            if (bitmap.Entry.NotUnderstood is { } reason)
                return $"bitmap '{Printable.Text(bitmap.Name)}' {reason}";
            if (!bitmap.IsEnabled || bitmap.IsInconsistent)
                continue;
            bytes += GranuleBits.LengthFor(diskBytes, bitmap.Entry.GranularityBits);
            if (bytes > BitmapTable.BitsBytesMax)
                return $"its bitmaps need more than {BitmapTable.BitsBytesMax >> 20} MiB of memory";
            BitmapTable.Read(file, bitmap.Entry, diskBytes, clusterBits);
        }

        return null;
    }
}
