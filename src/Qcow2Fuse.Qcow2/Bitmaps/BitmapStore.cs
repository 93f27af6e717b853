// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Bitmaps;

/// <summary>
/// Writes bitmaps into an image: always to new clusters, with a new directory, which one change of the header puts in
/// the place of the old one.
/// </summary>
/// <remarks>
/// The gate is held and released meanwhile; one call at a time. Order, each arrow a flush of the file: bits, tables,
/// directory and their refcounts → the header's extension → (for the first bitmap) the autoclear bit → the old
/// clusters are freed. A crash before the header has changed leaks clusters and nothing else.
/// </remarks>
internal sealed class BitmapStore(ImageCore image, ImageMetadata metadata)
{
    private readonly BlockDevice _file = image.File;
    private readonly Qcow2Geometry _geometry = image.Geometry;
    private readonly HeaderStore _header = image.Header;
    private readonly ImageGate _gate = image.Gate;
    private readonly List<(HostOffset Start, int Clusters)> _allocated = [];

    /// <summary>
    /// Makes <paramref name="bitmaps"/>, at least one, the bitmaps of the image. Durable on return; then their entries
    /// are those on disk. On a failure nothing has changed.
    /// </summary>
    /// <param name="set">The set whose directory is replaced.</param>
    /// <param name="bitmaps">All bitmaps of the new directory.</param>
    /// <param name="contents">The bits of those whose content is to be written; the others keep their tables.</param>
    public void Store(
        BitmapSet set, List<PersistentBitmap> bitmaps, Dictionary<PersistentBitmap, GranuleBits> contents)
    {
        _gate.AssertHeld();
        var entries = new List<BitmapEntry>(bitmaps.Count);
        List<HostOffset> old = OldClusters(set, bitmaps, contents.Keys);
        BitmapExtension extension;
        _allocated.Clear();
        try
        {
            foreach (PersistentBitmap bitmap in bitmaps)
            {
                bool stored = contents.TryGetValue(bitmap, out GranuleBits? bits);
                BitmapEntry entry = bitmap.Entry with { Flags = bitmap.Flags };
                entries.Add(stored ? WriteTable(entry, bits!) : entry);
            }

            extension = WriteDirectory(entries);
            metadata.Flush.Run();
        }
        catch
        {
            foreach ((HostOffset start, int clusters) in _allocated)
                metadata.Allocator.FreeUnlinked(start, clusters);
            throw;
        }

        Publish(() =>
        {
            _header.UpdateExtension(HeaderExtension.Bitmaps, extension.Encode(), metadata.Durable.Barrier);
            metadata.Durable.Barrier();
            if ((_header.Current.Autoclear & FeatureBits.Bitmaps) == 0)
            {
                _header.Update(static now => now with { Autoclear = now.Autoclear | FeatureBits.Bitmaps });
                metadata.Durable.Barrier();
            }
        });
        set.Extension = extension;
        int offset = 0;
        for (int i = 0; i < bitmaps.Count; i++)
        {
            bitmaps[i].Entry = entries[i];
            bitmaps[i].EntryOffset = offset;
            offset += entries[i].Length;
        }

        metadata.Survey.Rebuild();
        Free(old);
    }

    /// <summary>Removes the last bitmaps with directory and extension.</summary>
    public void RemoveAll(BitmapSet set)
    {
        _gate.AssertHeld();
        List<HostOffset> old = OldClusters(set, [], []);
        _allocated.Clear();
        Publish(() =>
        {
            _header.Update(static now => now with { Autoclear = now.Autoclear & ~FeatureBits.Bitmaps });
            metadata.Durable.Barrier();
            RemoveExtension();
        });
        set.Extension = null;
        metadata.Survey.Rebuild();
        Free(old);
    }

    /// <summary>Writes flags into the present directory. Each is changed or not after a crash; durable on return.
    /// </summary>
    public void WriteFlags(BitmapSet set, IReadOnlyList<PersistentBitmap> bitmaps)
    {
        _gate.AssertHeld();
        if (bitmaps.Count == 0 || set.Extension is not { } extension)
            return;
        Span<byte> flags = stackalloc byte[4];
        foreach (PersistentBitmap bitmap in bitmaps)
        {
            uint value = bitmap.Flags;
            BigEndian.U32(flags, 0, value);
            _file.Write(extension.Directory.Value + bitmap.EntryOffset + BitmapEntry.FlagsOffset, flags);
            bitmap.Entry = bitmap.Entry with { Flags = value };
        }

        metadata.Durable.Barrier();
    }

    /// <summary>Without its autoclear bit the extension means nothing: it may stay where there is no room to change
    /// the header.</summary>
    private void RemoveExtension()
    {
        try
        {
            _header.UpdateExtension(HeaderExtension.Bitmaps, content: null, metadata.Durable.Barrier);
        }
        catch (BlockException e) when (e.Kind == BlockErrorKind.NotSupported)
        {
            return;
        }

        metadata.Durable.Barrier();
    }

    private static bool IsZero(ReadOnlySpan<byte> bytes) => !bytes.ContainsAnyExcept((byte)0);

    /// <summary>After a failed change of the header nobody knows which directory is in force.</summary>
    private void Publish(Action change)
    {
        try
        {
            change();
        }
        catch (BlockException e) when (e.Kind != BlockErrorKind.NotSupported)
        {
            metadata.Durable.Fail(e);
            throw;
        }
        catch (BlockException)
        {
            // The header has no room, and has not changed.
            foreach ((HostOffset start, int clusters) in _allocated)
                metadata.Allocator.FreeUnlinked(start, clusters);
            throw;
        }
    }

    private BitmapEntry WriteTable(BitmapEntry entry, GranuleBits bits)
    {
        int entries = (int)((bits.Length + _geometry.ClusterMask) >> _geometry.ClusterBits);
        var table = new byte[_geometry.RoundUpToCluster(entries * 8L)];
        for (int i = 0; i < entries; i++)
        {
            long start = (long)i << _geometry.ClusterBits;
            Span<byte> part = bits.Bytes(start, Math.Min(_geometry.ClusterSize, bits.Length - start));
            ulong value = IsZero(part) ? 0 : IsAllOnes(bits, start, part) ? BitmapTable.AllOnes : 0;
            if (value == 0 && !IsZero(part))
                value = (ulong)WriteCluster(part).Value;
            BigEndian.U64(table, i * 8, value);
        }

        HostOffset place = Allocate(table.Length >> _geometry.ClusterBits);
        Write(place, table);
        return entry with { Table = (ulong)place.Value, TableEntries = (uint)entries };
    }

    private static bool IsAllOnes(GranuleBits bits, long start, ReadOnlySpan<byte> part)
    {
        long whole = Math.Min(part.Length, (bits.Count >> 3) - start);
        return !part[..(int)whole].ContainsAnyExcept((byte)0xff)
            && (whole == part.Length || part[(int)whole] == (byte)(0xff >> (int)(8 - (bits.Count & 7))));
    }

    private HostOffset WriteCluster(ReadOnlySpan<byte> part)
    {
        HostOffset place = Allocate(1);
        if (part.Length == _geometry.ClusterSize)
        {
            Write(place, part);
            return place;
        }

        using PooledBuffer cluster = BufferPool.Shared.Rent(_geometry.ClusterSize);
        part.CopyTo(cluster.Span);
        cluster.Span[part.Length..].Clear();
        Write(place, cluster.Span);
        return place;
    }

    private BitmapExtension WriteDirectory(List<BitmapEntry> entries)
    {
        byte[] directory = BitmapDirectory.Encode(entries);
        var padded = new byte[_geometry.RoundUpToCluster(directory.Length)];
        directory.CopyTo(padded, 0);
        HostOffset place = Allocate(padded.Length >> _geometry.ClusterBits);
        Write(place, padded);
        return new BitmapExtension(entries.Count, directory.Length, place);
    }

    private HostOffset Allocate(int clusters)
    {
        HostOffset start = metadata.Allocator.Allocate(clusters).Start;
        _allocated.Add((start, clusters));
        return start;
    }

    private void Write(HostOffset place, ReadOnlySpan<byte> bytes)
    {
        using (_gate.Release())
            _file.Write(place.Value, bytes);
    }

    /// <summary>The clusters that nothing refers to once the new directory is in force.</summary>
    private List<HostOffset> OldClusters(
        BitmapSet set, List<PersistentBitmap> kept, IReadOnlyCollection<PersistentBitmap> rewritten)
    {
        var old = new List<HostOffset>();
        if (set.Extension is not { } extension)
            return old;
        long end = extension.Directory.Value + extension.DirectoryBytes;
        for (long at = extension.Directory.Value; at < end; at += _geometry.ClusterSize)
            old.Add(new HostOffset(at));
        var left = new HashSet<PersistentBitmap>(kept);
        left.ExceptWith(rewritten);
        foreach (PersistentBitmap bitmap in set.All)
        {
            if (!left.Contains(bitmap))
                AddClustersOf(bitmap, old);
        }

        return old;
    }

    /// <summary>
    /// Of a bitmap that can be used, a cluster that holds metadata is damage, found before anything changes; of one
    /// that cannot, which nobody believes, it is left out.
    /// </summary>
    private void AddClustersOf(PersistentBitmap bitmap, List<HostOffset> clusters)
    {
        foreach (HostOffset cluster in BitmapTable.ClustersOf(_file, bitmap.Entry, _geometry.ClusterBits))
        {
            if (metadata.Guard.Allows(cluster, _geometry.ClusterSize))
            {
                clusters.Add(cluster);
            }
            else if (bitmap.IsUsable)
            {
                image.Corrupt.Set();
                metadata.Guard.CheckGivenUp(cluster.Value >> _geometry.ClusterBits, 1);
            }
        }
    }

    private void Free(List<HostOffset> clusters)
    {
        foreach (HostOffset cluster in clusters)
            metadata.Frees.Add(cluster, 1, metadata.Epochs.Current);
    }
}
